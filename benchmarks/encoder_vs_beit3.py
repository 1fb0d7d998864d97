"""Our BEiT-3 tower against its authors' `torchscale`: same weights, same input, same precision, forward and backward.

    python -m benchmarks.encoder_vs_beit3 [--batch 2] [--side 384] [--runs 7] [--compile]

The base network, measured twice: `ratio` is for expressions of 2 to 9 words, padded to 40 pieces as their data sets pad
them, `ratio_without_padding` for 40 words. Images are square, as their network takes no others. On a GPU both run in
bf16 autocast, with `--compile` both compiled; on a CPU both in fp32. Prints the largest difference of the outputs, the
medians of paired times, and one JSON line last. `torchscale` is a development dependency.
"""

import argparse
import json

import torch
from torchscale.architecture.config import EncoderConfig
from torchscale.model.BEiT3 import BEiT3

from benchmarks.encoder_passes import in_turns, on, with_and_without_padding
from mail.model import MailConfig, MailForReferringSegmentation
from mail.model.beit3_weights import convert
from mail.model.presets import beit3
from mail.model.pretrained import fill

WORDS = 40


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--side", type=int, default=384)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--compile", action="store_true")
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    config = beit3(image_size=args.side, mask_modality="none")
    authors, mail = authors_network(config), MailForReferringSegmentation(config)
    fill(mail, convert({f"beit3.{name}": value for name, value in authors.state_dict().items()}, instances=False))
    authors, mail = authors.to(device).train(), mail.to(device).train()
    measured = with_and_without_padding(
        lambda padded: compare(authors, mail, args.batch, padded, args.runs, args.compile)
    )
    where = {"side": args.side} | on(device, args.batch, args.compile)
    print(json.dumps({"benchmark": "encoder_vs_beit3"} | measured | where))


def authors_network(config: MailConfig) -> BEiT3:
    """The network as the authors' code builds it for its files, with random weights."""
    return BEiT3(
        EncoderConfig(
            img_size=config.image_size,
            patch_size=config.patch_size,
            vocab_size=config.vocab_size,
            multiway=True,
            layernorm_embedding=False,
            normalize_output=True,
            no_output_layer=True,
            encoder_embed_dim=config.hidden_size,
            encoder_attention_heads=config.num_attention_heads,
            encoder_ffn_embed_dim=config.intermediate_size,
            encoder_layers=config.num_hidden_layers,
        )
    )


def compare(
    authors: BEiT3, mail: MailForReferringSegmentation, batch: int, padded: bool, runs: int, compiled: bool
) -> dict:
    device, side = mail.device, mail.config.image_size
    pixels = torch.randint(0, 256, (batch, 3, side, side), dtype=torch.uint8, device=device)
    size = torch.full((batch, 2), side, device=device)
    ids = torch.randint(10, 60000, (batch, WORDS), device=device)
    lengths = torch.randint(2, 10, (batch, 1), device=device) + 2 if padded else torch.full((batch, 1), WORDS)
    attention = (torch.arange(WORDS, device=device) < lengths.to(device)).long()
    normalised, padding = (pixels / 255 - 0.5) / 0.5, attention == 0

    def theirs() -> torch.Tensor:
        return authors(ids, normalised, text_padding_position=padding)["encoder_out"]

    def ours() -> torch.Tensor:
        return mail.encode(mail.encode_images(pixels, size), ids, attention)

    with torch.no_grad():  # theirs begins with the image
        image = (side // mail.config.patch_size) ** 2 + 1
        apart = (theirs()[:, :image] - ours()[:, WORDS:]).abs().max()
    return {**in_turns(theirs, ours, (authors, mail), runs, device, compiled), "difference_fp32": float(apart)}


if __name__ == "__main__":
    main()
