"""What a few scenes of another look bring a trained model: `python -m benchmarks.fine_tune --champion runs/demo`.

A champion as `mail-ris demo` makes it (claim: fine-tuned on 200 scenes of the domain `tiles`, which looks otherwise, it
beats itself and a network trained from nothing on the same scenes, on held-out scenes of that domain, whatever the
seed; in at most 5 minutes of training on 2 cores). For each size and seed other scenes are drawn, a fifth of them to
choose the checkpoint by; the held-out scenes are always the same. Masks are those of the champion's own proposer.

    python -m benchmarks.fine_tune --champion runs/demo --folder runs/fine-tune             all of it
    python -m benchmarks.fine_tune ... --sizes 200 --seeds 1 --networks child --threads 1   a piece; the rest is kept

What is there is not computed again. The last line is JSON; `curve.png` and `curve.md` in the folder are the figure and
the table of all that is there.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mail import addresses
from mail.data.scenes import SceneConfig
from mail.metrics import Accumulator, Difference, paired_bootstrap, read_per_expression
from mail.metrics.measure import measure

SPLITS = ("testA", "testB")
NETWORKS = ("champion", "child", "nothing")
TITLES = {"champion": "the champion as it is", "child": "fine-tuned", "nothing": "trained from nothing"}
HELD_OUT_SEED, FIRST_SEED = 99, 100
TRAINED = SceneConfig(domain="tiles", split_shares=(0.8, 0.2, 0.0, 0.0))
HELD_OUT = SceneConfig(domain="tiles", split_shares=(0.0, 0.0, 0.5, 0.5))


class Bench:
    """Everything in one folder: stores, masks, runs, evaluations.

    Attributes:
        demo: folder of the demo that the champion is from.
    """

    def __init__(self, options: argparse.Namespace):
        self.options, self.folder, self.demo = options, options.folder.absolute(), options.champion.absolute()
        self.masks = str(self.folder / "masks")

    def champion(self) -> str:
        """The champion's MODEL; made by a demo where there is none yet."""
        from pipelines.stages.demo import Demo

        model = self.demo / "runs" / "with-masks" / "model"
        if not (model / "config.json").exists():
            Demo(out=self.demo).run()
        return str(model)

    def data(self, name: str, images: int, seed: int, scene: SceneConfig) -> str:
        """A data store of scenes, whose masks are in the table."""
        from pipelines.stages.precompute import Precompute
        from pipelines.stages.prepare import PrepareSynthetic

        store = self.folder / "stores" / name
        if not (store / "store.json").exists():
            PrepareSynthetic(out=str(store), images=images, seed=seed, scene=scene).run()
        if not (done := self.folder / "stores" / f"{name}.masked").exists():
            proposer = str(Path(self.champion()) / "proposer")
            Precompute(data=str(store), proposer=proposer, masks=self.masks).run()
            done.touch()
        return str(store)

    def train(self, network: str, size: int, seed: int) -> Path:
        """The folder of a finished training of a network on so many scenes; `seconds.json` says how long it took."""
        from pipelines.stages.train import Train

        out = self.folder / "runs" / f"{network}-{size}-{seed}"
        if (out / "seconds.json").exists():
            return out
        store = self.data(f"tiles-{size}-{seed}", size, FIRST_SEED + seed, TRAINED)
        own: dict[str, Any] = {"from_": self.champion(), "steps": self.options.steps}
        if network == "nothing":  # its checkpoint is chosen by the same validation, and it is given about 5 minutes
            own = {"preset": "tiny", "steps": self.options.nothing_steps, "patience": 10**6}
        begun = time.monotonic()
        Train(
            data=store,
            masks=self.masks,
            name=f"{network}-{size}-{seed}",
            out=str(out),
            resume=True,
            workers=0,
            threads=self.options.threads,
            seed=seed,
            overlay_every=0,
            register=False,
            **own,
        ).run()
        (out / "seconds.json").write_text(json.dumps(round(time.monotonic() - begun, 1)))
        return out

    def counts(self, network: str, size: int = 0, seed: int = 0) -> Accumulator:
        """What a network answers on the held-out scenes, each expression once."""
        from pipelines.evaluating.config import EvaluationConfig
        from pipelines.evaluating.evaluation import evaluate

        model = self.champion() if network == "champion" else str(self.train(network, size, seed) / "model")
        store = self.data("held-out", self.options.held_out, HELD_OUT_SEED, HELD_OUT)
        found = []
        for split in SPLITS:
            out = self.folder / "evaluations" / f"{network}-{size}-{seed}" / split
            if not (out / "metrics.json").exists():
                config = EvaluationConfig(model=model, data=store, masks=self.masks, split=split, out=out, workers=0)
                config.gallery = False
                evaluate(config)
            found.append(read_per_expression(out / "per_expression.jsonl"))
        return found[0].merge(found[1])

    def is_there(self, network: str, size: int, seed: int) -> bool:
        folder = self.folder / "evaluations" / f"{network}-{size}-{seed}"
        return all((folder / split / "metrics.json").exists() for split in SPLITS)

    def seconds(self) -> float:
        """Of the longest training that is there."""
        found = [json.loads(path.read_text()) for path in (self.folder / "runs").glob("*/seconds.json")]
        return max(found, default=0.0)


def compare(ours: Accumulator, theirs: Accumulator) -> Difference:
    return paired_bootstrap(ours.counts, theirs.counts)["mIoU"]


def row(bench: Bench, size: int, seed: int) -> dict[str, Any]:
    """Figures of one size and seed: mIoU of all networks, and the fine-tuned one's differences to the others."""
    counts = {
        "champion": bench.counts("champion"),
        "child": bench.counts("child", size, seed),
        "nothing": bench.counts("nothing", size, seed),
    }
    found: dict[str, Any] = {"size": size, "seed": seed}
    found |= {network: measure(c.counts).mIoU for network, c in counts.items()}
    for other in ("champion", "nothing"):
        d = compare(counts["child"], counts[other])
        found[f"against_{other}"] = {"difference": d.difference, "lower": d.lower, "upper": d.upper}
    return found


def table(rows: list[dict[str, Any]]) -> str:
    """A Markdown table, in points of mIoU: mean over the seeds, and the widest of their intervals."""

    def mean(some: list[dict[str, Any]], key: str) -> str:
        return f"{100 * statistics.fmean(r[key] for r in some):.1f}"

    def interval(some: list[dict[str, Any]], key: str) -> str:
        d = [r[key] for r in some]
        low, high = min(x["lower"] for x in d), max(x["upper"] for x in d)
        return f"{100 * statistics.fmean(x['difference'] for x in d):+.1f} ({100 * low:+.1f} .. {100 * high:+.1f})"

    lines = [
        f"| scenes | seeds | {' | '.join(TITLES.values())} | fine-tuned - champion | fine-tuned - from nothing |",
        "|---" * 7 + "|",
    ]
    for size in sorted({r["size"] for r in rows}):
        some = [r for r in rows if r["size"] == size]
        cells = [mean(some, network) for network in NETWORKS]
        cells += [interval(some, f"against_{other}") for other in ("champion", "nothing")]
        lines.append(f"| {size} | {len(some)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """The curve over sizes: a point a seed, a line through their means."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 3.6))
    sizes = sorted({r["size"] for r in rows})
    for network, colour in zip(NETWORKS, ("#868e96", "#e8590c", "#1971c2"), strict=True):
        means = [statistics.fmean(100 * r[network] for r in rows if r["size"] == size) for size in sizes]
        axes.plot(sizes, means, color=colour, label=TITLES[network])
        axes.plot([r["size"] for r in rows], [100 * r[network] for r in rows], ".", color=colour)
    axes.set(xscale="log", xlabel="scenes of the other domain", ylabel="mIoU on held-out scenes, points")
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=150)


def conclusion(rows: list[dict[str, Any]], seconds: float) -> Mapping[str, Any]:
    """The claim: at 200 scenes the lower bounds of all seeds are above 0."""
    claimed = [r for r in rows if r["size"] == 200]
    lowest = {
        other: min((100 * r[f"against_{other}"]["lower"] for r in claimed), default=None)
        for other in ("champion", "nothing")
    }
    return {
        "benchmark": "fine_tune",
        "rows": rows,
        "lowest_bound_at_200": lowest,
        "holds": bool(claimed) and all(bound is not None and bound > 0 for bound in lowest.values()),
        "longest_training_seconds": seconds,
        "hardware": f"{os.cpu_count()} CPUs",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/fine-tune"))
    parser.add_argument("--champion", type=Path, default=Path("runs/demo"), help="folder of a demo; made if not there")
    parser.add_argument("--sizes", type=int, nargs="+", default=[50, 200, 1000])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS), help="only these")
    parser.add_argument("--held-out", type=int, default=300, help="held-out scenes")
    parser.add_argument("--steps", type=int, help="of fine-tuning (default: as `train --from`)")
    parser.add_argument("--nothing-steps", type=int, default=800, help="of training from nothing")
    parser.add_argument("--threads", type=int, help="torch threads (default: CPUs)")
    options = parser.parse_args()
    bench = Bench(options)
    bench.folder.mkdir(parents=True, exist_ok=True)
    os.environ["MLFLOW_TRACKING_URI"] = addresses.sqlite_uri(bench.folder / "mlflow.db")
    if "champion" in options.networks:
        bench.counts("champion")
    for size in options.sizes:
        for seed in options.seeds:
            for network in (n for n in ("child", "nothing") if n in options.networks):
                bench.counts(network, size, seed)
    known = [tuple(map(int, p.name.split("-")[1:])) for p in (bench.folder / "evaluations").glob("child-*")]
    whole = [k for k in sorted(known) if all(bench.is_there(n, *k) for n in ("child", "nothing"))]
    rows = [row(bench, size, seed) for size, seed in whole] if bench.is_there("champion", 0, 0) else []
    if rows:
        draw(rows, bench.folder / "curve.png")
        (bench.folder / "curve.md").write_text(table(rows) + "\n")
        print(table(rows))
    print(json.dumps(conclusion(rows, bench.seconds())))


if __name__ == "__main__":
    main()
