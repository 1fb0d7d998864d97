"""How instance masks should enter the network: every design trained alike, several seeds, on generated scenes.

    python -m benchmarks.ablation [--folder runs/ablation] [--seeds 3] [--steps 800] [--write docs/ablation.md]

Makes scenes, a Mask R-CNN that never saw their evaluation images and its mask table in --folder (or uses those that are
there: the folder of a demo serves as well), then trains every design of `DESIGNS` for the same steps of the `tiny`
preset and measures it on the whole validation split four times: with the Mask R-CNN's masks, with none, with poor ones
(a fifth missing, the others shifted by up to 15 % of their size) and with the true ones. A run that is finished is kept
in FOLDER/ablation, so the same command goes on where it was stopped. The last line is JSON.
"""

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mail import rle
from mail.data.coco import CocoInstances
from mail.data.images import decode_image
from mail.data.mask_table import MaskTable
from mail.data.store import DataStore
from mail.evaluation import SplitInput, SplitPlan
from mail.inference import Predictor
from mail.metrics import Accumulator, measure
from mail.metrics.over_seeds import interval
from mail.model import MailForReferringSegmentation
from mail.proposals import Proposals
from mail.training.input import batches
from mail.training.optimizer import make_optimizer
from mail.training.run_plan import RunPlan
from mail.training.step import by_step, train_step
from pipelines.stages.train import Train

SPLIT = "val"
SHIFT, MISSING = 0.15, 0.2
BARE = {
    "attention": "joint",
    "geometry_frequencies": 6,
    "coverage_bias": False,
    "paste": False,
    "selection": False,
    "direct": False,
    "pixel_share": 0.0,
    "loss_selection": 1.0,
    "proposal_dropout": 0.1,
}
OF_THE_TRAINING = ("proposal_dropout", "optimizer")  # not of the network
SELECTS = BARE | {"selection": True, "direct": True}
HALF = {"pixel_share": 0.5, "loss_selection": 1.0}  # and no proposal is withheld any more
DESIGNS: dict[str, dict[str, Any]] = {
    "no masks": BARE | {"mask_modality": "none"},
    "masks as channels of the patches": BARE | {"mask_modality": "channels"},
    "tokens": BARE,
    "tokens, pasted": BARE | {"paste": True},
    "tokens, selection loss": BARE | {"selection": True},
    "tokens, direct path, no selection loss": SELECTS | {"loss_selection": 0.0},
    "tokens, selection loss, direct path": SELECTS,
    "the same, pasted": SELECTS | {"paste": True},
    "the same, coverage bias": SELECTS | {"coverage_bias": True},
    "the same, boxes without Fourier features": SELECTS | {"geometry_frequencies": 0},
    "the same, one-way attention": SELECTS | {"attention": "one_way"},
    "the same, one-way attention, pixels trained alone": HALF | {"geometry_frequencies": 6},
    "and boxes without Fourier features": HALF,
    "and a lighter selection loss": {},  # the network of the presets
    "and a decoder at the full resolution of masks": {"decoder_stride": 2},
    "and a decoder at a quarter of it": {"decoder_stride": 8},
    "and a decoder half as wide": {"decoder_dim": 12},
    "and Muon": {"optimizer": "muon"},
    "and Muon, each proposal by itself": {"optimizer": "muon", "choice": "many"},
    "and Muon, a tower like BEiT-3's": {"optimizer": "muon", "tower": "beit3"},
    "no masks, boxes without Fourier features": {"mask_modality": "none"},  # as `--model.mask-modality none` gives
}
Find = Callable[[str, tuple[int, int]], Proposals]


@dataclasses.dataclass
class Changes:
    """Changes to the preset's network, as `RunPlan` asks for them."""

    values: dict[str, Any]

    def given(self) -> dict[str, Any]:
        return dict(self.values)


def prepare(folder: Path, images: int) -> None:
    """Scenes, store, proposer and mask table in `folder`; what is there stays."""
    from pipelines.stages.precompute import Precompute
    from pipelines.stages.prepare import PrepareSynthetic
    from pipelines.stages.train_proposer import TrainProposer

    scenes, store, proposer, masks = (str(folder / name) for name in ("scenes", "store", "proposer", "masks"))
    if not (folder / "store" / "store.json").exists():
        PrepareSynthetic(out=store, root=scenes, images=images, seed=0).run()
    if not (folder / "proposer" / "proposer.json").exists():
        TrainProposer(
            instances=f"{scenes}/synthetic/instances.json",
            images=f"{scenes}/images/train2014",
            out=proposer,
            exclude_store=store,
        ).run()
    Precompute(data=store, proposer=proposer, masks=masks).run()


def train(folder: Path, design: str, seed: int, steps: int, batch: int, device: torch.device) -> Predictor:
    changes = {"optimizer": "adamw"} | DESIGNS[design]
    options = Train(
        preset="tiny",
        data=str(folder / "store"),
        masks=str(folder / "masks"),
        name=design,
        steps=steps,
        global_batch_size=batch,
        seed=seed,
        validation_expressions=0,
        **{name: changes.pop(name) for name in OF_THE_TRAINING if name in changes},
    )
    options.model = Changes(changes)  # type: ignore[assignment]
    run = RunPlan.make(options)
    torch.manual_seed(seed)
    model = MailForReferringSegmentation(run.network).to(device).train()  # type: ignore[arg-type]
    optimizer = make_optimizer(model, run.settings)
    for parts in by_step(batches(run.source, run.epochs, 0, steps)):
        train_step(model, optimizer, parts, run.settings, device=device, bf16=device.type == "cuda")
    return Predictor(model.eval(), run.source.processor, None, device)


def ways_to_propose(folder: Path) -> dict[str, Find]:
    """What the networks are measured with: image id and (height, width) -> proposals."""
    snapshot = MaskTable(str(folder / "masks")).snapshot()
    coco = CocoInstances(folder / "scenes" / "synthetic" / "instances.json")

    def found(image_id: str, size: tuple[int, int]) -> Proposals:
        return snapshot.proposals([image_id])[image_id]

    def oracle(image_id: str, size: tuple[int, int]) -> Proposals:
        masks = [coco.mask(i) for i in coco.instances_of(int(image_id.rpartition("/")[2]))]
        return _proposals(masks, np.ones(len(masks), np.float32), size)

    def poor(image_id: str, size: tuple[int, int]) -> Proposals:
        return spoil(found(image_id, size), np.random.default_rng(zlib.crc32(image_id.encode())))

    return {"Mask R-CNN": found, "none": lambda _, size: Proposals(size), "poor": poor, "true": oracle}


def spoil(proposals: Proposals, random: np.random.Generator) -> Proposals:
    """Proposals of which some are missing and the others moved, up to `SHIFT` of their box along each axis."""
    masks, scores = [], []
    for score, box, mask in zip(proposals.scores, proposals.boxes, proposals.rles, strict=True):
        dx, dy = (round(side * random.uniform(-SHIFT, SHIFT)) for side in box[2:])
        if random.random() < MISSING:
            continue
        pixels = rle.decode(mask)
        moved = np.zeros_like(pixels)
        rows, columns = np.nonzero(pixels)
        inside = (
            (rows + dy >= 0) & (rows + dy < pixels.shape[0]) & (columns + dx >= 0) & (columns + dx < pixels.shape[1])
        )
        moved[rows[inside] + dy, columns[inside] + dx] = 1
        masks.append(rle.encode(moved))
        scores.append(score)
    return _proposals(masks, np.array(scores, np.float32), proposals.size)


def _proposals(masks: list[rle.RLE], scores: np.ndarray, size: tuple[int, int]) -> Proposals:
    boxes = np.array([rle.bbox(m) for m in masks], np.float32).reshape(-1, 4)
    return Proposals(size, scores, np.ones(len(masks), np.int32), boxes, masks)


def evaluate(predictor: Predictor, store: DataStore, find: Find) -> dict[str, float]:
    """Figures of the whole validation split at the original resolution, and the IoU of its best proposals."""
    plan = SplitPlan.read(store, SPLIT, 16)
    source = SplitInput.of(store, plan, None)
    targets = dict(zip(*(plan.expressions[c].to_pylist() for c in ("expr_id", "target")), strict=True))
    accumulator, ceiling = Accumulator(), []
    for number in range(len(plan)):
        images = plan.batch(number)
        pixels = [decode_image(data) for data in source.read(number)["images"]]
        proposals = [find(image.image_id, image.size) for image in images]
        answers = predictor.predict_batch(pixels, [image.texts for image in images], proposals)
        for image, own, segmentations in zip(images, proposals, answers, strict=True):
            for expr_id, segmentation in zip(image.expr_ids, segmentations, strict=True):
                accumulator.add(expr_id, rle.encode(segmentation.mask), targets[expr_id])
                ious = rle.iou_matrix([targets[expr_id]], own.rles)
                ceiling.append(float(ious.max()) if ious.size else 0.0)
    accumulator.check_coverage(list(targets))
    figures = measure(accumulator.counts)
    precision = {f"P@{key}": value for key, value in figures.prec.items() if key in ("0.5", "0.7", "0.9")}
    own = {"mIoU": figures.mIoU, "oIoU": figures.oIoU, **precision, "ceiling": statistics.fmean(ceiling)}
    if figures.no_target:  # scenes of several targets, or none
        own |= {"gIoU": figures.gIoU, "cIoU": figures.cIoU, "N-acc": figures.n_acc, "T-acc": figures.t_acc}
    return own


def one_run(folder: Path, design: str, seed: int, steps: int, batch: int, out: Path) -> None:
    """Trains and measures one network; the result is there whole or not at all."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    begun = time.monotonic()
    predictor = train(folder, design, seed, steps, batch, device)
    trained = time.monotonic()
    store = DataStore(folder / "store")
    figures = {name: evaluate(predictor, store, find) for name, find in ways_to_propose(folder).items()}
    result = {
        "design": design,
        "seed": seed,
        "steps": steps,
        "expressions": steps * batch,
        "parameters": sum(p.numel() for p in predictor.model.parameters()),
        "train_seconds": round(trained - begun, 1),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "CPU",
        "figures": figures,
    }
    partial = out.with_suffix(".partial")
    partial.write_text(json.dumps(result, indent=2))
    partial.replace(out)


def tables(results: dict[str, list[dict]]) -> str:
    """Two Markdown tables: all figures with the Mask R-CNN's masks, and mIoU by where the masks come from."""

    def cell(runs: list[dict], way: str, key: str) -> str:
        mean, half = interval([r["figures"][way][key] for r in runs])
        return f"{mean:.3f} ± {half:.3f}"

    first = next(iter(results.values()))[0]["figures"]
    ways, keys = ["Mask R-CNN", "none", "poor", "true"], [k for k in first["Mask R-CNN"] if k != "ceiling"]
    lines = ["| design | " + " | ".join(keys) + " |", "|---" * (len(keys) + 1) + "|"]
    for design, runs in results.items():
        lines.append(f"| {design} | " + " | ".join(cell(runs, "Mask R-CNN", key) for key in keys) + " |")
    lines += ["", "| design | " + " | ".join(f"{way} masks" for way in ways) + " |", "|---" * (len(ways) + 1) + "|"]
    for design, runs in results.items():
        lines.append(f"| {design} | " + " | ".join(cell(runs, way, "mIoU") for way in ways) + " |")
    lines.append(
        "| *the best proposal of each expression* | " + " | ".join(f"{first[w]['ceiling']:.3f}" for w in ways) + " |"
    )
    return "\n".join(lines)


def write(path: Path, text: str) -> None:
    """Puts the tables between the two marks of a Markdown file."""
    before, mark, rest = path.read_text().partition("<!-- tables -->\n")
    _, end, after = rest.partition("<!-- end of tables -->")
    if not mark or not end:
        sys.exit(f"{path} has no marks <!-- tables --> and <!-- end of tables -->")
    path.write_text(f"{before}{mark}{text}\n{end}{after}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/ablation"))
    parser.add_argument("--images", type=int, default=3000)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--batch", type=int, default=16, help="expressions in a step")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, help="trainings side by side, one thread each (default: CPUs; 1 on a GPU)")
    parser.add_argument("--designs", nargs="*", default=list(DESIGNS), choices=list(DESIGNS), help="only these")
    parser.add_argument("--write", type=Path, help="Markdown file that gets the tables")
    parser.add_argument("--one", nargs=2, metavar=("DESIGN", "SEED"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    out = options.folder / "ablation" / f"{options.steps}x{options.batch}"
    out.mkdir(parents=True, exist_ok=True)

    def path(design: str, seed: int) -> Path:
        return out / f"{design.replace(', ', '-').replace(' ', '_')}-{seed}.json"

    if options.one:
        design, seed = options.one[0], int(options.one[1])
        one_run(options.folder, design, seed, options.steps, options.batch, path(design, seed))
        return
    prepare(options.folder, options.images)
    todo = [(d, s) for s in range(options.seeds) for d in options.designs if not path(d, s).exists()]
    jobs = options.jobs or (1 if torch.cuda.is_available() else os.cpu_count() or 1)
    environment = os.environ if torch.cuda.is_available() else {**os.environ, "OMP_NUM_THREADS": "1"}

    def start(job: tuple[str, int]) -> None:
        design, seed = job
        command = [sys.executable, "-m", "benchmarks.ablation", "--folder", str(options.folder)]
        command += ["--steps", str(options.steps), "--batch", str(options.batch), "--one", design, str(seed)]
        subprocess.run(command, check=True, env=environment)
        figures = json.loads(path(design, seed).read_text())["figures"]
        shown = ", ".join(f"{way} {f['mIoU']:.3f}" for way, f in figures.items())
        print(f"{design}, seed {seed}: mIoU {shown}", flush=True)

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(start, todo))
    results = {d: [json.loads(path(d, s).read_text()) for s in range(options.seeds)] for d in options.designs}
    text = tables(results)
    print(text)
    if options.write:
        write(options.write, text)
    means = {
        d: round(interval([r["figures"]["Mask R-CNN"]["mIoU"] for r in runs])[0], 4) for d, runs in results.items()
    }
    best = max(means, key=lambda d: means[d])
    runs = next(iter(results.values()))
    print(
        json.dumps(
            {
                "benchmark": "ablation",
                "best": best,
                "ratio": round(means[best] / means["no masks"], 3) if "no masks" in means else None,
                "mIoU": means,
                "seeds": options.seeds,
                "steps": options.steps,
                "batch": options.batch,
                "train_seconds": sum(r["train_seconds"] for runs in results.values() for r in runs),
                "device": runs[0]["device"],
            }
        )
    )


if __name__ == "__main__":
    main()
