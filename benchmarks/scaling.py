"""One and two workers with the same global batch, and a model of what training costs: `python -m benchmarks.scaling`.

Trains `tiny` with 1 and with 2 workers, one torch thread each, and compares the losses (claim: the same within 1e-5)
and the expressions a second. `--write docs/scaling.md` writes these, and a model of the cost of RefCOCO and of a
hundred times as much on 8 and 64 GPUs: operations and sizes are counted, the speeds are parameters: `--gpu-speed`,
expressions a second of one GPU with vilt-b32, from `benchmarks.gpu` there; `--core-speed`, expressions a second
whose input one core makes, from `benchmarks.input_pipeline --real`.
"""

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.scenes import make_scenes
from mail import addresses
from mail.data.sets import DATA_SETS
from mail.model import describe, find_preset
from mail.training.cost import PEAKS, estimate

REFCOCO_EXPRESSIONS = DATA_SETS["refcoco"].published["unc"]["train"].expressions or 0
EPOCHS = 20
GPUS = (8, 64)
LARGE = ("vilt-b32", "vilt-b16", "beit3-base", "beit3-base-480", "beit3-large")


def train(folder: Path, store: str, masks: str, workers: int, steps: int) -> tuple[list[float], float]:
    """Losses by step, and expressions a second from step 10 on."""
    from pipelines.registry.client import connect
    from pipelines.stages.train import Train

    result = Train(
        preset="tiny",
        data=store,
        masks=masks,
        name=f"workers-{workers}",
        out=str(folder / f"workers-{workers}"),
        workers=workers,
        threads=1,
        steps=steps,
        checkpoint_every=steps,
        validation_expressions=0,
        register=False,
    ).run()
    client = connect()

    def history(key: str) -> list[Any]:
        return sorted(client.get_metric_history(result["run_id"], key), key=lambda m: m.step)

    seconds = sum(m.value for m in history("speed/seconds") if m.step > 10)
    expressions = sum(m.value for m in history("speed/expressions") if m.step > 10)
    return [m.value for m in history("train/loss")], expressions / seconds


def measure(images: int, steps: int) -> dict[str, Any]:
    from pipelines.cluster_session.session import connect

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        os.environ["MLFLOW_TRACKING_URI"] = addresses.sqlite_uri(folder / "mlflow.db")
        store, masks = make_scenes(folder, images)
        with connect(num_cpus=2):
            one, speed_one = train(folder, store, masks, 1, steps)
            two, speed_two = train(folder, store, masks, 2, steps)
    gaps = [abs(a - b) for a, b in zip(one, two, strict=True)]
    return {
        "benchmark": "scaling",
        "steps": steps,
        "largest_difference_of_losses": max(gaps),
        "largest_difference_in_10_steps": max(gaps[:10]),
        "expressions_per_second_1_worker": round(speed_one, 1),
        "expressions_per_second_2_workers": round(speed_two, 1),
        "efficiency": round(speed_two / speed_one / 2, 3),
    }


def cost_rows(gpu_speed: float | None) -> list[str]:
    """Rows of the table: what, operations, hours on 8 and 64 GPUs."""
    network = describe(find_preset("vilt-b32").config())
    each = 3 * network["forward_flops_per_expression"]
    rows = []
    for name, factor in (("RefCOCO", 1), ("100 x RefCOCO", 100)):
        expressions = REFCOCO_EXPRESSIONS * EPOCHS * factor
        hours = [
            "not run" if gpu_speed is None else f"{expressions / (gpu_speed * gpus) / 3600:.2f} h" for gpus in GPUS
        ]
        operations = expressions * each
        least = operations / PEAKS["H100"][0] / 3600
        cells = [name, f"{expressions:,}", f"{operations:.2e}", f"{least:.2f}", *hours]
        rows.append("| " + " | ".join(cells) + " |")
    return rows


def network_rows() -> str:
    """Rows of the table of the presets at the real size, counted."""
    rows = []
    for name in LARGE:
        config = find_preset(name).config()
        network, one = describe(config), estimate(config, 1, bf16=True)
        operations, state = 3 * network["forward_flops_per_expression"], one.state / 2**30
        kept = one.activations / 2**30
        rows.append(
            f"| `{name}` | {network['parameters'] / 1e6:.0f} M | {network['tokens']:,} | {operations:.2e} | "
            f"{state:.2f} GiB | {kept:.2f} GiB |"
        )
    return "\n".join(rows)


def page(result: dict[str, Any], gpu_speed: float | None, core_speed: float | None, where: str) -> str:
    config = find_preset("vilt-b32").config()
    network, one = describe(config), estimate(config, 1, bf16=True)
    parameters = network["parameters"]
    plan = 16 * 100 * REFCOCO_EXPRESSIONS / 2**20
    of_gpu, of_core = (f"{n:,.0f} expressions a second" if n else "not run" for n in (gpu_speed, core_speed))
    cores = f"{gpu_speed / core_speed:.1f}" if gpu_speed and core_speed else "not run"
    return f"""# Scaling

Written by `python -m benchmarks.scaling --write docs/scaling.md`; {where}.

## Measured: one and two workers
The preset `tiny`, the same global batch of 32, one torch thread a worker, {result["steps"]} steps, both on one machine.

| what | figure |
|---|---|
| largest difference of the losses, all steps | {result["largest_difference_of_losses"]:.1e} |
| largest difference of the losses, first 10 steps | {result["largest_difference_in_10_steps"]:.1e} |
| expressions a second, 1 worker | {result["expressions_per_second_1_worker"]} |
| expressions a second, 2 workers | {result["expressions_per_second_2_workers"]} |
| efficiency (speed of two over twice the speed of one) | {result["efficiency"]} |

Ray's own processes, the input tasks and both workers share the same cores here: on a machine with free cores for them
the efficiency is higher, and what a network between machines costs is not in it.

## Counted: a step of `vilt-b32`
| what | figure |
|---|---|
| parameters | {parameters:,} |
| operations for one expression, forward and backward | {3 * network["forward_flops_per_expression"]:.3e} |
| weights, gradients and AdamW's moments, on every GPU | {one.state / 2**30:.2f} GiB |
| activations kept for one expression, bf16 | {one.activations / 2**30:.3f} GiB |
| gradients sent by each worker in a step (ring all-reduce, fp32) | {2 * 4 * parameters / 2**30:.2f} GiB at most |
| a checkpoint | {12 * parameters / 2**30:.2f} GiB |

## Counted: the other networks
Of one expression on an image of its own, all words and instance slots filled, as above. A frozen tower costs the same:
gradients go through it to what embeds the instances.

| preset | parameters | tokens | operations, forward and backward | weights and moments | activations, bf16 |
|---|---|---|---|---|---|
{network_rows()}

## A model of the cost
{EPOCHS} epochs of all sentences with `vilt-b32`. The hours at the peak are what no GPU can be faster than: operations
over the bf16 peak of an H100's data sheet, on one GPU. The hours on 8 and 64 GPUs follow from the speed of one,
measured in a training through Ray (`python -m benchmarks.gpu --only training`): {of_gpu}. They count
no waiting for other GPUs: divide by the efficiency that two machines show.

Cores that the input needs beside each GPU: **{cores}**. One core makes the input of {of_core}, of photos of 640x480
with 32 proposals (`python -m benchmarks.input_pipeline --real`).

| data | expressions in all | operations | H100 hours at the peak | 8 GPUs | 64 GPUs |
|---|---|---|---|---|---|
{chr(10).join(cost_rows(gpu_speed))}

What grows and what does not:
* The plan of the data costs 16 bytes an expression, {plan:.0f} MiB for a hundred times RefCOCO, sent once to each node.
* The input is read as a stream; memory does not grow with the data (`python -m benchmarks.input_pipeline`).
* A lost machine costs the steps since the newest checkpoint and the start of the workers, whatever the number of GPUs
  (`python -m benchmarks.recovery`); all GPUs wait meanwhile, so with 64 of them save more often than with 8.
* With 64 GPUs and a global batch of 64 a GPU has one expression a step. Raise `--global-batch-size`, which is part of
  the recipe, or use fewer GPUs.
* Gradients live in the buckets that are sent (`gradient_as_bucket_view`), which saves one copy of them, 4 bytes a
  parameter, on every GPU; losses and weights stay equal to the bit (two gloo workers, `tiny`, accumulation over two
  parts, 15 steps, torch 2.13). DDP's static graph stays off: with accumulation under `no_sync` it ends in an assertion
  inside torch (`expect_autograd_hooks_`), in four of four tries.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--gpu-speed", type=float, help="expressions a second of one GPU with vilt-b32, as measured")
    parser.add_argument("--core-speed", type=float, help="expressions a second whose input one core makes, as measured")
    parser.add_argument("--hardware", default="2 cores", help="what the page says it was measured on, with the date")
    parser.add_argument("--write", type=Path, help="the page to write")
    args = parser.parse_args()
    result = measure(args.images, args.steps)
    if args.write:
        args.write.write_text(page(result, args.gpu_speed, args.core_speed, args.hardware))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
