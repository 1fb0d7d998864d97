"""Our encoder against transformers' `ViltModel`: same weights, same input, same precision, forward and backward.

    python -m benchmarks.encoder_vs_vilt [--batch 4] [--runs 7] [--compile]

On a GPU both run in bf16 autocast, with `--compile` both compiled; on a CPU both in fp32. Prints the largest difference
of the outputs, the median of paired times, and one JSON line last.
"""

import argparse
import json
import statistics
import time

import torch
from transformers import ViltConfig, ViltModel

from mail.model import MailConfig, MailForReferringSegmentation
from mail.model.vilt_weights import fill_from_vilt

WORDS = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--compile", action="store_true")
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    vilt = ViltModel(ViltConfig(), add_pooling_layer=False)
    mail = MailForReferringSegmentation(MailConfig(image_size=384, mask_modality="none"))
    fill_from_vilt(mail, vilt.state_dict())
    vilt, mail = vilt.to(device).train(), mail.to(device).train()
    pixels = torch.randint(0, 256, (args.batch, 3, 384, 384), dtype=torch.uint8, device=device)
    ids = torch.randint(1000, 20000, (args.batch, WORDS), device=device)
    attention = torch.ones_like(ids)
    size = torch.full((args.batch, 2), 384, device=device)
    normalised = (pixels / 255 - 0.5) / 0.5

    def theirs() -> torch.Tensor:
        return vilt(ids, attention, pixel_values=normalised).last_hidden_state

    def ours() -> torch.Tensor:
        return mail.encode(mail.encode_images(pixels, size), ids, attention)

    with torch.no_grad():  # ViLT shuffles the patches: the words can be compared as they are
        difference = float((theirs()[:, :WORDS] - ours()[:, :WORDS]).abs().max())
    if args.compile:
        theirs, ours = torch.compile(theirs), torch.compile(ours)

    def seconds(forward) -> float:
        vilt.zero_grad(), mail.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize()
        begun = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            loss = forward().float().square().mean()
        loss.backward()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - begun

    for forward in (theirs, ours, theirs, ours):  # warm-up
        seconds(forward)
    pairs = [(seconds(theirs), seconds(ours)) for _ in range(args.runs)]
    ratio = statistics.median(their / our for their, our in pairs)
    result = {
        "benchmark": "encoder_vs_vilt",
        "ratio": round(ratio, 3),
        "vilt_seconds": round(statistics.median(t for t, _ in pairs), 4),
        "mail_seconds": round(statistics.median(o for _, o in pairs), 4),
        "difference_fp32": difference,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads",
        "precision": "bf16" if device.type == "cuda" else "fp32",
        "batch": args.batch,
        "compile": args.compile,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
