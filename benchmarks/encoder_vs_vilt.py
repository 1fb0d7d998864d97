"""Our encoder against transformers' `ViltModel`: same weights, same input, same precision, forward and backward.

    python -m benchmarks.encoder_vs_vilt [--batch 4] [--runs 7] [--compile]

Measured twice. `ratio` is for what users have: photos of 4:3, lying and standing, and expressions of 2 to 9 words,
padded to 40 as ViLT was trained. `ratio_without_padding` is for square images and 40 words, where there is nothing to
leave out. On a GPU both run in bf16 autocast, with `--compile` both compiled; on a CPU both in fp32. Prints the largest
difference of the outputs at words, the medians of paired times, and one JSON line last.
"""

import argparse
import json
from dataclasses import dataclass

import torch
from transformers import ViltConfig, ViltModel

from benchmarks.encoder_passes import in_turns, on, with_and_without_padding
from mail.model import MailConfig, MailForReferringSegmentation
from mail.model.pretrained import fill
from mail.model.vilt_weights import convert

WORDS, SIDE = 40, 384


@dataclass
class Input:
    """A batch as either network takes it: `pixels` uint8 (N, 3, SIDE, SIDE), `size` (N, 2), words (N, WORDS)."""

    pixels: torch.Tensor
    size: torch.Tensor
    ids: torch.Tensor
    attention: torch.Tensor

    @classmethod
    def random(cls, batch: int, *, padded: bool, device: torch.device) -> "Input":
        size = torch.full((batch, 2), SIDE)
        lengths = torch.full((batch, 1), WORDS)
        if padded:
            size[::2, 0] = size[1::2, 1] = SIDE * 3 // 4
            lengths = torch.randint(2, 10, (batch, 1)) + 2  # [CLS] and [SEP]
        pixels = torch.randint(0, 256, (batch, 3, SIDE, SIDE), dtype=torch.uint8)
        ids = torch.randint(1000, 20000, (batch, WORDS))
        attention = (torch.arange(WORDS) < lengths).long()
        return cls(*(t.to(device) for t in (pixels, size, ids, attention)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--compile", action="store_true")
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    vilt = ViltModel(ViltConfig(), add_pooling_layer=False)
    mail = MailForReferringSegmentation(MailConfig(image_size=SIDE, mask_modality="none"))
    fill(mail, convert(vilt.state_dict()))
    vilt, mail = vilt.to(device).train(), mail.to(device).train()
    measured = with_and_without_padding(
        lambda padded: compare(
            vilt, mail, Input.random(args.batch, padded=padded, device=device), args.runs, args.compile
        )
    )
    print(json.dumps({"benchmark": "encoder_vs_vilt"} | measured | on(device, args.batch, args.compile)))


def compare(vilt: ViltModel, mail: MailForReferringSegmentation, data: Input, runs: int, compiled: bool) -> dict:
    device = data.pixels.device
    inside = torch.arange(SIDE, device=device) < data.size[..., None]  # (N, 2, SIDE)
    pixel_mask = (inside[:, 0, :, None] & inside[:, 1, None, :]).long()
    normalised = (data.pixels / 255 - 0.5) / 0.5 * pixel_mask[:, None]

    def theirs() -> torch.Tensor:
        return vilt(data.ids, data.attention, pixel_values=normalised, pixel_mask=pixel_mask).last_hidden_state

    def ours() -> torch.Tensor:
        return mail.encode(mail.encode_images(data.pixels, data.size), data.ids, data.attention)

    with torch.no_grad():  # ViLT shuffles the patches: the words can be compared as they are
        apart = (theirs()[:, :WORDS] - ours()[:, :WORDS]).abs() * data.attention[..., None]
    return {**in_turns(theirs, ours, (vilt, mail), runs, device, compiled), "difference_fp32": float(apart.max())}


if __name__ == "__main__":
    main()
