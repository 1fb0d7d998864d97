"""Proposals of a data set on Ray Data: tasks read and decode, a pool of actors proposes, further tasks paste masks.

    from pipelines.precomputing.proposals import Pool, proposals_of

Needs a connection to Ray. The rows come as they are finished; who commits them is `pipelines.precomputing.sink`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from mail.data.origins import NOTHING
from mail.proposers import load_proposer
from mail.proposers.folder import ProposerFolder
from mail.proposers.rows import WorkUnit, decode_unit, detect_rows, propose_rows, select_rows
from pipelines.cluster_session.errors import plain_errors
from pipelines.precomputing.config import PrecomputeConfig
from pipelines.precomputing.sink import give_back_memory

LOADER_CPUS = 0.25
CPUS_A_LOADER = 4  # a core decodes for more than three that run the smallest proposer
PASTING_CPUS = 0.5
CALLS_BETWEEN_TRIMS = 16


@dataclass(frozen=True)
class Pool:
    """How many copies of the proposer run where. Loading tasks always find a CPU beside them.

    Attributes:
        apart: masks are pasted and encoded in tasks of their own, so that no actor, and no GPU, waits for it.
        cpus_per_actor: None beside a GPU, where Ray reserves one and warns of whoever asks for it.
        calls: batches that an actor has in hand: of two, one is prepared or handed over while the GPU has the other.
        loaders: at most so many processes decode, where the proposer itself needs the cores.
    """

    actors: int
    batch_size: int
    on_gpu: bool
    cpus_per_actor: float | None
    apart: bool = False
    calls: int = 1
    loaders: int | None = None

    @classmethod
    def for_cluster(cls, batch_size: int | None, actors: int | None) -> "Pool":
        import ray

        resources = ray.cluster_resources()
        gpus, cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 1))
        if gpus:
            return cls(actors or gpus, batch_size or 8, True, None, apart=True, calls=2)
        count = actors or cpus
        # the loading tasks need little time but must be scheduled: the actors claim half a core less than there is
        return cls(count, batch_size or 16, False, max(0.1, (cpus - 0.5) / count), loaders=-(-cpus // CPUS_A_LOADER))

    def options(self, units: int) -> dict[str, Any]:
        """What `map_batches` is told of the actors, for so many units of work."""
        from ray.data import ActorPoolStrategy

        compute = ActorPoolStrategy(
            size=min(self.actors, units),
            max_concurrent_calls_per_actor=self.calls,
            enable_true_multi_threading=self.calls > 1,
        )
        needs = {"num_gpus": 1} if self.on_gpu else {"num_cpus": self.cpus_per_actor}
        return {"compute": compute, **needs}


class ProposerActor:
    """One copy of the proposer in the pool."""

    def __init__(self, path: str, score_threshold: float | None, max_instances: int | None, on_gpu: bool, apart: bool):
        import torch

        if not on_gpu:
            torch.set_num_threads(1)  # as many copies as cores
        device = "cuda" if on_gpu else "cpu"
        self.proposer = load_proposer(path, device, score_threshold=score_threshold, max_instances=max_instances)
        self.apart = apart
        self.calls = 0

    def __call__(self, decoded: pa.Table) -> pa.Table:
        self.calls += 1
        if self.calls % CALLS_BETWEEN_TRIMS == 0:
            give_back_memory()
        return (detect_rows if self.apart else propose_rows)(self.proposer, decoded)


def proposals_of(units: Sequence[WorkUnit], config: PrecomputeConfig, pool: Pool) -> Iterator[pa.Table]:
    """Rows of the mask table for the units' images, as they are finished. Needs a connection to Ray.

    Raises:
        UserError: a worker cannot read the proposer or the store.
    """
    import ray
    from ray.data import TaskPoolStrategy

    store, max_pixels = config.data, config.max_pixels
    chosen = (config.score_threshold, config.max_instances)

    def load(batch: pa.Table) -> pa.Table:
        return decode_unit(store, WorkUnit.from_json(batch["unit"][0].as_py()), max_pixels)

    plan = [{"unit": unit.to_json()} for unit in units]
    rows = ray.data.from_items(plan, override_num_blocks=len(plan)).map_batches(
        load, batch_size=1, batch_format="pyarrow", num_cpus=LOADER_CPUS, compute=TaskPoolStrategy(pool.loaders)
    )
    rows = rows.map_batches(
        ProposerActor,
        fn_constructor_args=(config.proposer, *chosen, pool.on_gpu, pool.apart),
        batch_size=pool.batch_size,
        batch_format="pyarrow",
        zero_copy_batch=True,
        **pool.options(len(plan)),
    )
    if pool.apart:
        # the ids of the images that it saw would travel with every task
        folder = replace(ProposerFolder.read(config.proposer).with_selection(*chosen), origin=NOTHING)

        def paste(detected: pa.Table) -> pa.Table:
            return select_rows(folder, detected)

        rows = rows.map_batches(paste, batch_size=pool.batch_size, batch_format="pyarrow", num_cpus=PASTING_CPUS)
    with plain_errors():
        yield from rows.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1)
