"""`mail-ris precompute --data STORE --proposer PROPOSER --masks TABLE`: the instance masks of every image, once.

Plan: the store's images less those that have a committed row. Run: tasks read and decode, a pool of actors proposes.
Commit: this process writes what has come back every --commit-every seconds, so that a rerun of the same command after
any kind of end has little to repeat. With nothing pending, Ray is not even started.
"""

import dataclasses
import itertools
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

# Read when Arrow first allocates, here and in the workers of a local Ray. Its own allocator keeps for every thread what
# that once had, out of reach of `give_back_memory`: the driver would be the larger the more images a store has.
os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")

import pyarrow as pa

from mail.errors import UserError
from pipelines.mask_sink import MaskSink, give_back_memory
from pipelines.stage import Stage, done, say

if TYPE_CHECKING:
    from mail.data.mask_table import MaskTable
    from mail.data.store import DataStore
    from mail.proposers.folder import ProposerFolder
    from mail.proposers.rows import WorkUnit

UNITS_A_ROUND = 8192  # bounds what the driver holds of a plan; a round starts its actors anew
BATCHES_A_UNIT = 4
LOADER_CPUS = 0.25
CPUS_A_LOADER = 4  # a core decodes for more than three that run the smallest proposer
PASTING_CPUS = 0.5
CALLS_BETWEEN_TRIMS = 16


@dataclasses.dataclass(kw_only=True)
class Precompute(Stage):
    """Data store + proposer -> rows in the mask table; what is there already is not computed again."""

    data: str
    """The data store whose images get masks (local or s3://)."""

    proposer: str
    """Folder of the proposer, as `train-proposer` and `import-proposer` write it."""

    masks: str
    """The mask table (local or s3://); made if there is none."""

    score_threshold: float | None = None
    """Keep detections with score >= this (default: the proposer's; another value makes another proposer_id)."""

    max_instances: int | None = None
    """Keep at most so many masks an image (default: the proposer's; another value makes another proposer_id)."""

    batch_size: int | None = None
    """Images the proposer takes at once (default: 16 on a CPU, 8 on a GPU)."""

    actors: int | None = None
    """Copies of the proposer (default: one a GPU, or one a CPU core)."""

    max_pixels: int = 100_000_000
    """Images whose header declares more are not decoded but recorded as too_large."""

    max_error_rate: float = 0.05
    """If more than this share of the images of this run cannot be used, the run fails, after committing everything."""

    commit_every: float = 60.0
    """Seconds between commits; the first ones come sooner."""

    allow_leaky: bool = False
    """Go on although the proposer saw evaluation images, or nobody knows; what is made with it is labelled leaky."""

    replaces: ClassVar[bool] = False  # the rows take the place of committed ones

    def plan(self) -> dict[str, Any]:
        folder, store, table = self._open()
        leaky = self._leaky(folder, store)
        head, pending = self._pending(folder, store, table)
        return {
            "proposer_id": folder.proposer_id,
            "leaky": leaky,
            "images": store.manifest["image_count"],
            "pending": len(pending),
            "version": head.version,
            "max_instances": folder.selection.max_instances,
            "score_threshold": folder.selection.score_threshold,
        }

    def run(self) -> dict[str, Any]:
        """Computes what is pending; returns counts by status, images a second and the table's version."""
        started = time.monotonic()
        folder, store, table = self._open()
        info = {**folder.info, "leaky": self._leaky(folder, store)}
        head, pending = self._pending(folder, store, table)
        if len(pending) == 0 and self.replaces:
            done(f"{self.masks}: no such images by {folder.proposer_id}")
        elif len(pending) == 0:
            done(f"{self.masks}: all {store.manifest['image_count']} images have masks by {folder.proposer_id} already")
        if len(pending) == 0:
            return {"proposer_id": folder.proposer_id, "images": 0, "version": head.version, "digest": head.digest}
        say(f"{len(pending)} of {store.manifest['image_count']} images are pending for {folder.proposer_id}")
        if folder.image_ids is not None:
            table.register_images(folder.proposer_id, folder.image_ids)
        sink = MaskSink(table, info, head, len(pending), self.commit_every, self.replaces)
        self._compute(folder, store, pending, sink)
        seconds = time.monotonic() - started
        errors = {s: n for s, n in sorted(sink.statuses.items()) if s != "ok"}
        listed = ", ".join(f"{n} {s}" for s, n in errors.items()) or "no errors"
        done(
            f"wrote {self.masks}: version {sink.state.version}, {sink.rows} images by {folder.proposer_id} in "
            f"{seconds:.0f} s ({sink.images_per_second:.1f} a second once it ran), {listed}"
        )
        if sum(errors.values()) > self.max_error_rate * sink.rows:
            raise UserError(
                f"{sum(errors.values())} of {sink.rows} images could not be used ({listed}), more than "
                f"--max-error-rate {self.max_error_rate}: they are committed as such, see `mail-ris masks status`"
            )
        return {
            "proposer_id": folder.proposer_id,
            "images": sink.rows,
            "statuses": dict(sink.statuses),
            "images_per_second": sink.images_per_second,
            "seconds": seconds,
            "version": sink.state.version,
            "digest": sink.state.digest,
        }

    def _open(self) -> "tuple[ProposerFolder, DataStore, MaskTable]":
        from mail.data.mask_table import MaskTable
        from mail.data.store import DataStore
        from mail.proposers.folder import ProposerFolder

        if not 0 <= self.max_error_rate <= 1 or self.commit_every <= 0:
            raise UserError("--max-error-rate must lie in 0..1 and --commit-every above 0")
        folder = ProposerFolder.read(self.proposer).with_selection(self.score_threshold, self.max_instances)
        return folder, DataStore(self.data), MaskTable(self.masks)

    def _leaky(self, folder: "ProposerFolder", store: "DataStore") -> bool:
        from mail.leakage import check_leakage

        return check_leakage(folder, store, allow_leaky=self.allow_leaky, what=f"the proposer {self.proposer}")

    def _pending(self, folder: "ProposerFolder", store: "DataStore", table: "MaskTable") -> tuple[Any, pa.Array]:
        ids = store.image_ids()
        head = table.head()  # before `pending`, which may see a later one: then a few files are checked twice
        return head, table.pending(ids, folder.proposer_id)

    def _compute(self, folder: "ProposerFolder", store: "DataStore", pending: pa.Array, sink: MaskSink) -> None:
        from mail.proposers.rows import plan_units
        from pipelines.ray_session import connect

        give_back_memory()  # what the plan took
        with connect(metrics=False):
            pool = Pool.for_cluster(self.batch_size, self.actors)
            units = plan_units(store, pending, BATCHES_A_UNIT * pool.batch_size)
            while chunk := list(itertools.islice(units, UNITS_A_ROUND)):
                for rows in proposals_of(chunk, self, pool):
                    sink.add(rows)
            sink.flush()


@dataclasses.dataclass(frozen=True)
class Pool:
    """How many copies of the proposer run where. Loading tasks always find a CPU beside them.

    Attributes:
        apart: masks are pasted and encoded in tasks of their own, so that no actor, and no GPU, waits for it.
        loaders: at most so many processes decode, where the proposer itself needs the cores.
    """

    actors: int
    batch_size: int
    on_gpu: bool
    cpus_per_actor: float
    apart: bool = False
    loaders: int | None = None

    @classmethod
    def for_cluster(cls, batch_size: int | None, actors: int | None) -> "Pool":
        import ray

        resources = ray.cluster_resources()
        gpus, cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 1))
        if gpus:
            return cls(actors or gpus, batch_size or 8, True, 1.0, apart=True)
        count = actors or cpus
        # the loading tasks need little time but must be scheduled: the actors claim half a core less than there is
        return cls(count, batch_size or 16, False, max(0.1, (cpus - 0.5) / count), loaders=-(-cpus // CPUS_A_LOADER))


class ProposerActor:
    """One copy of the proposer in the pool."""

    def __init__(self, path: str, score_threshold: float | None, max_instances: int | None, on_gpu: bool, apart: bool):
        import torch

        from mail.proposers import load_proposer

        if not on_gpu:
            torch.set_num_threads(1)  # as many copies as cores
        device = "cuda" if on_gpu else "cpu"
        self.proposer = load_proposer(path, device, score_threshold=score_threshold, max_instances=max_instances)
        self.apart = apart
        self.calls = 0

    def __call__(self, decoded: pa.Table) -> pa.Table:
        from mail.proposers.rows import detect_rows, propose_rows

        self.calls += 1
        if self.calls % CALLS_BETWEEN_TRIMS == 0:
            give_back_memory()
        return (detect_rows if self.apart else propose_rows)(self.proposer, decoded)


def proposals_of(units: "Sequence[WorkUnit]", config: Precompute, pool: Pool) -> Iterator[pa.Table]:
    """Rows of the mask table for the units' images, as they are finished. Needs a connection to Ray."""
    import ray
    from ray.data import ActorPoolStrategy, TaskPoolStrategy

    from mail.proposers.folder import ProposerFolder
    from mail.proposers.rows import WorkUnit, decode_unit, select_rows

    store, max_pixels = _absolute(config.data), config.max_pixels
    chosen = (config.score_threshold, config.max_instances)

    def load(batch: pa.Table) -> pa.Table:
        return decode_unit(store, WorkUnit.from_json(batch["unit"][0].as_py()), max_pixels)

    plan = [{"unit": unit.to_json()} for unit in units]
    rows = ray.data.from_items(plan, override_num_blocks=len(plan)).map_batches(
        load, batch_size=1, batch_format="pyarrow", num_cpus=LOADER_CPUS, compute=TaskPoolStrategy(pool.loaders)
    )
    rows = rows.map_batches(
        ProposerActor,
        fn_constructor_args=(_absolute(config.proposer), *chosen, pool.on_gpu, pool.apart),
        batch_size=pool.batch_size,
        batch_format="pyarrow",
        zero_copy_batch=True,
        compute=ActorPoolStrategy(size=min(pool.actors, len(plan))),
        num_cpus=pool.cpus_per_actor,
        num_gpus=1 if pool.on_gpu else None,
    )
    if pool.apart:
        # the ids of the images that it saw would travel with every task
        folder = dataclasses.replace(ProposerFolder.read(config.proposer).with_selection(*chosen), image_ids=None)

        def paste(detected: pa.Table) -> pa.Table:
            return select_rows(folder, detected)

        rows = rows.map_batches(paste, batch_size=pool.batch_size, batch_format="pyarrow", num_cpus=PASTING_CPUS)
    yield from rows.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1)


def _absolute(uri: str) -> str:
    """The same address from any working directory."""
    return uri if uri.startswith("s3://") else str(Path(uri).absolute())
