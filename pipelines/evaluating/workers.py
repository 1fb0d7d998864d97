"""Ray Data's part of `evaluate`: tasks that read batches, and a pool of actors that predict them."""

import math
import tempfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa

from mail.evaluation import ImageAnswer, SplitInput, answer_batch, model_files
from pipelines.cluster_session.errors import plain_errors
from pipelines.cluster_session.session import connect

READER_CPUS = 0.5
_CONTENT = pa.schema([("batch", pa.int64()), ("images", pa.list_(pa.large_binary())), ("masks", pa.large_binary())])


def predict(
    split: SplitInput, model_folder: Path, pending: list[int], workers: int | None, threshold: float, side: int | None
) -> Iterator[ImageAnswer]:
    """Answers to the batches `pending` of a split, in any order, image by image.

    Args:
        workers: actors; default: one a GPU, else one for two CPUs.
        threshold: probability from which a pixel belongs to the mask. side: of thumbnails, None for none.
    """
    import ray
    from ray.data import ActorPoolStrategy

    with connect(), plain_errors():
        source, model = ray.put(split), ray.put(model_files(model_folder))
        pool = _pool(workers, len(pending))

        def read(block: pa.Table) -> pa.Table:
            return _read(source, block["number"].to_pylist())

        data = (
            # not `range`: its tasks would want a whole CPU, which the actors may not have left
            ray.data.from_items([{"number": n} for n in pending], override_num_blocks=len(pending))
            .map_batches(read, batch_size=1, batch_format="pyarrow", num_cpus=READER_CPUS)
            .map_batches(
                PredictingActor,
                fn_constructor_args=(source, model, threshold, side, pool["num_gpus"] > 0),
                batch_size=1,
                batch_format="pyarrow",
                compute=ActorPoolStrategy(size=pool["size"]),
                num_cpus=pool["num_cpus"],
                num_gpus=pool["num_gpus"],
            )
        )
        for block in data.iter_batches(batch_size=None, batch_format="pyarrow"):
            assert isinstance(block, pa.Table)
            for line in block["answer"].to_pylist():
                yield ImageAnswer.from_line(line)


class PredictingActor:
    """Holds a predictor; answers one batch at a time."""

    def __init__(self, source: Any, model: Any, threshold: float, side: int | None, gpu: bool):
        import ray
        import torch

        from mail.inference import Predictor

        # one thread whatever the number of workers: sums come out the same
        torch.set_num_threads(1)
        self.batches = ray.get(source).batches
        with tempfile.TemporaryDirectory() as folder:
            for name, data in ray.get(model).items():
                Path(folder, name).write_bytes(data)
            self.predictor = Predictor.from_pretrained(folder, device="cuda" if gpu else "cpu")
        self.threshold, self.side = threshold, side

    def __call__(self, block: pa.Table) -> pa.Table:
        answers = []
        for row in block.to_pylist():
            batch = self.batches[row["batch"]]
            masks = pa.ipc.open_stream(row["masks"]).read_all()["row"].to_pylist()
            answers += answer_batch(self.predictor, batch, row["images"], masks, self.threshold, self.side)
        return pa.table({"answer": pa.array([a.to_line() for a in answers], pa.large_string())})


@lru_cache(maxsize=1)  # per task process: open files live on
def _opened(source: Any) -> SplitInput:
    import ray

    return ray.get(source)


def _read(source: Any, numbers: list[int]) -> pa.Table:
    rows = []
    for number in numbers:
        content = _opened(source).read(number)
        # the rows' type differs between batches (all None without masks), so it travels inside the block
        masks = pa.table({"row": content["masks"]})
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, masks.schema) as stream:
            stream.write_table(masks)
        rows.append({"batch": number, "images": content["images"], "masks": sink.getvalue().to_pybytes()})
    return pa.Table.from_pylist(rows, _CONTENT)


def _pool(workers: int | None, batches: int) -> dict[str, Any]:
    """Number of actors and what each of them holds, so that the reading tasks always find a CPU."""
    import ray

    resources = ray.cluster_resources()
    cpus, gpus = float(resources.get("CPU", 1)), float(resources.get("GPU", 0))
    size = min(workers or int(gpus) or max(1, int(cpus) // 2), batches)
    share = (cpus - READER_CPUS) / size if cpus > READER_CPUS else cpus / (2 * size)
    num_gpus = min(1.0, gpus / size) if gpus else 0.0
    if num_gpus > 0.5:
        num_gpus = 1.0  # Ray wants whole GPUs, or shares of one
        size = min(size, int(gpus))
    return {"size": size, "num_cpus": _share(min(1.0, share)), "num_gpus": _share(num_gpus)}


def _share(value: float) -> float:
    """Rounded down: all shares together must not exceed what there is."""
    return math.floor(value * 1000) / 1000
