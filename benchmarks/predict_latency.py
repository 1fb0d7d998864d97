"""One photo with 1 and with 16 sentences, proposer included: `python -m benchmarks.predict_latency`.

    python -m benchmarks.predict_latency [--model MODEL] [--preset vilt-b32] [--proposer r50-fpn]

Times each part: proposing, encoding (resizing, rasterising, word pieces), embedding of the image, the transformer and
the decoder for the sentences, masks at the photo's size. A product that calls a network once a sentence pays all of it
16 times; here the image is prepared once. Claims: 16 sentences cost at most 1.1 times (preparation once + 16 times the
network alone) on a CPU, and at most 3 times one sentence on a GPU. Without --model the weights are random: the time is
that of trained ones. The last line is JSON.
"""

import argparse
import dataclasses
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import safetensors.torch
import torch
from PIL import Image, ImageDraw

from mail.inference import Predictor, default_device
from mail.model import MailForReferringSegmentation, MailProcessor, find_preset, tokenizer_from_texts
from mail.proposals import Proposals
from mail.proposers import Proposer, load_proposer
from mail.proposers.folder import write_proposer
from mail.proposers.maskrcnn import build_network
from mail.proposers.presets import preset as proposer_preset

SENTENCE = "the second small red thing from the left above the blue one"
SENTENCES = 16


def make_photo(width: int, height: int) -> np.ndarray:
    """A photo-sized picture with things in it."""
    random = np.random.default_rng(0)
    picture = Image.fromarray(random.integers(90, 160, (height, width, 3), dtype=np.uint8))
    draw = ImageDraw.Draw(picture)
    for _ in range(40):
        x, y, r = random.uniform(0, width), random.uniform(0, height), random.uniform(10, width / 6)
        draw.ellipse((x - r, y - r, x + r, y + r), fill=tuple(int(v) for v in random.integers(0, 256, 3)))
    return np.array(picture)


def random_proposer(name: str, device: str) -> Proposer:
    """An untrained Mask R-CNN that keeps as many detections as a trained one may."""
    recipe = proposer_preset(name)
    selection = dataclasses.replace(recipe.selection, score_threshold=0.0)
    torch.manual_seed(0)
    weights = safetensors.torch.save(build_network(recipe.network, selection).state_dict())
    with tempfile.TemporaryDirectory() as folder:
        out = f"{folder}/proposer"
        write_proposer(out, network=recipe.network, selection=selection, weights=weights, seen=[], training={})
        return load_proposer(out, device)


def random_predictor(preset: str, proposer: str, device: str) -> Predictor:
    torch.manual_seed(0)
    config = find_preset(preset).config()
    model = MailForReferringSegmentation(config).eval()
    processor = MailProcessor.for_config(tokenizer_from_texts([SENTENCE]), config)
    return Predictor(model, processor, random_proposer(proposer, device), torch.device(device))


class Clock:
    """Seconds spent in named methods, the device's work included."""

    def __init__(self, device: str):
        self.cuda = device.startswith("cuda")
        self.seconds: dict[str, float] = {}

    def now(self) -> float:
        if self.cuda:
            torch.cuda.synchronize()
        return time.perf_counter()

    def watch(self, owner: Any, method: str, part: str) -> None:
        inner = getattr(owner, method)

        def timed(*args: Any, **kwargs: Any) -> Any:
            begun = self.now()
            result = inner(*args, **kwargs)
            self.seconds[part] = self.seconds.get(part, 0.0) + self.now() - begun
            return result

        setattr(owner, method, timed)

    def call(self, run: Callable[[], Any]) -> dict[str, float]:
        self.seconds = {}
        begun = self.now()
        run()
        return {**self.seconds, "all": self.now() - begun}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="MODEL folder with its proposer (default: random weights)")
    parser.add_argument("--preset", default="vilt-b32")
    parser.add_argument("--proposer", default="r50-fpn", help="architecture of the random proposer")
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    device = default_device()
    if options.model:
        predictor = Predictor.from_pretrained(options.model, device=device)
    else:
        predictor = random_predictor(options.preset, options.proposer, device)
    photo = make_photo(640, 480)
    clock = Clock(device)
    if predictor.proposer is not None:
        clock.watch(predictor.proposer, "propose", "propose")
    for method in ("encode_image", "encode_proposals", "encode_texts"):
        clock.watch(predictor.processor, method, "encode")
    clock.watch(predictor.model, "encode_images", "embed the image")
    clock.watch(predictor.model, "segment", "transformer and decoder")
    clock.watch(predictor.processor, "post_process", "masks")

    def median(sentences: int) -> dict[str, float]:
        calls = [clock.call(lambda: predictor.predict(photo, [SENTENCE] * sentences)) for _ in range(options.runs)]
        return {part: statistics.median(call[part] for call in calls) for part in calls[0]}

    for warm_up in (1, SENTENCES):
        predictor.predict(photo, [SENTENCE] * warm_up)
    one, many = median(1), median(SENTENCES)
    for part in one:
        print(f"{part}: {1000 * one[part]:.1f} ms for one sentence, {1000 * many[part]:.1f} ms for {SENTENCES}")
    proposals: Proposals = predictor.propose([photo])[0]
    network = one["transformer and decoder"] + one["masks"]
    once = one["all"] - network
    result = {
        "benchmark": "predict_latency",
        "ratio": round(SENTENCES * one["all"] / many["all"], 2),
        "against_parts": round(many["all"] / (once + SENTENCES * network), 3),
        "against_one_sentence": round(many["all"] / one["all"], 2),
        "one_ms": {part: round(1000 * value, 1) for part, value in one.items()},
        "sixteen_ms": {part: round(1000 * value, 1) for part, value in many.items()},
        "proposals": len(proposals),
        "network": options.model or options.preset,
        "proposer": "of the model" if options.model else options.proposer,
        "device": torch.cuda.get_device_name() if device == "cuda" else f"CPU, {torch.get_num_threads()} threads",
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
