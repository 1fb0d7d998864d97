"""The instance masks of every image, once: plan, run, commit.

Plan: the store's images less those that have a committed row. Run: `proposals` on Ray. Commit: this process writes what
has come back every `commit_every` seconds, so that the same command after any kind of end has little to repeat. With
nothing pending, Ray is not even started.
"""

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from mail.data import files
from mail.data.mask_table import MaskTable
from mail.data.store import DataStore
from mail.errors import UserError
from mail.leakage import check_leakage
from mail.proposers.folder import ProposerFolder
from mail.proposers.rows import plan_units
from pipelines.cluster_session.session import connect
from pipelines.precomputing.config import PrecomputeConfig
from pipelines.precomputing.proposals import Pool, proposals_of
from pipelines.precomputing.sink import MaskSink, give_back_memory, use_system_memory
from pipelines.terminal import done, say

UNITS_A_ROUND = 8192  # bounds what the driver holds of a plan; a round starts its actors anew
BATCHES_A_UNIT = 4
BYTES_A_MASK = 256  # on the disk, as run lengths, with what is known of the instance


@dataclass
class Precomputation:
    """A proposer, a data store and a mask table, opened and checked.

    Attributes:
        choose: ids of the images to compute, instead of those without a committed row; then the new rows take the place
            of committed ones.
    """

    config: PrecomputeConfig
    folder: ProposerFolder
    store: DataStore
    table: MaskTable
    leaky: bool
    choose: "Callable[[Precomputation], pa.Array] | None" = None

    @classmethod
    def open(
        cls, config: PrecomputeConfig, choose: "Callable[[Precomputation], pa.Array] | None" = None
    ) -> "Precomputation":
        """Raises UserError where an option is wrong, or the proposer saw evaluation images and that is not allowed."""
        if not 0 <= config.max_error_rate <= 1 or config.commit_every <= 0:
            raise UserError("--max-error-rate must lie in 0..1 and --commit-every above 0")
        folder = ProposerFolder.read(config.proposer).with_selection(config.score_threshold, config.max_instances)
        folder.weights()  # compared with their digest here, not by each actor
        files.check_writable(config.masks)
        store, table = DataStore(config.data), MaskTable(config.masks)
        what = f"the proposer {config.proposer}"
        verdict = check_leakage(folder.origin, store, allow_leaky=config.allow_leaky, what=what)
        for line in verdict.remarks:
            say(line)
        return cls(config, folder, store, table, verdict.leaky, choose)

    def pending(self) -> tuple[Any, pa.Array]:
        """The table's state, and the ids of the images to compute."""
        head = self.table.head()  # before the ids, which may be of a later one: then a few files are checked twice
        if self.choose is not None:
            pending = self.choose(self)
        else:
            pending = self.table.pending(self.store.image_ids(), self.folder.proposer_id)
        need = len(pending) * self.folder.selection.max_instances * BYTES_A_MASK
        files.check_writable(self.config.masks, need, f"the masks of {len(pending)} images")
        return head, pending

    def describe(self) -> dict[str, Any]:
        """What there is to do, ready for JSON."""
        head, pending = self.pending()
        return {
            "proposer_id": self.folder.proposer_id,
            "leaky": self.leaky,
            "images": self.store.manifest["image_count"],
            "pending": len(pending),
            "version": head.version,
            "max_instances": self.folder.selection.max_instances,
            "score_threshold": self.folder.selection.score_threshold,
        }

    def run(self) -> dict[str, Any]:
        """Computes what is pending; returns counts by status, images a second and the table's version.

        Raises:
            UserError: too many of the images could not be used; everything is committed all the same.
        """
        config, started = self.config, time.monotonic()
        proposer_id, images = self.folder.proposer_id, self.store.manifest["image_count"]
        head, pending = self.pending()
        origin = self.table.register_origin(proposer_id, self.folder.origin)  # which may have been said since
        if len(pending) == 0:
            nothing = f"all {images} images have masks by {proposer_id} already"
            done(f"{config.masks}: {nothing if self.choose is None else f'no such images by {proposer_id}'}")
            return {"proposer_id": proposer_id, "images": 0, "version": head.version, "digest": head.digest}
        say(f"{len(pending)} of {images} images are pending for {proposer_id}")
        info = {**self.folder.info, "trained_on": origin.summary, "leaky": self.leaky}
        use_system_memory()
        give_back_memory()  # what the plan took
        with (
            connect(metrics=False),
            MaskSink(self.table, info, head, len(pending), config.commit_every, self.choose is not None) as sink,
        ):
            pool = Pool.for_cluster(config.batch_size, config.actors)
            units = plan_units(self.store, pending, BATCHES_A_UNIT * pool.batch_size)
            while chunk := list(itertools.islice(units, UNITS_A_ROUND)):
                for rows in proposals_of(chunk, config, pool):
                    sink.add(rows)
            sink.flush()
        seconds = time.monotonic() - started
        errors = {s: n for s, n in sorted(sink.statuses.items()) if s != "ok"}
        listed = ", ".join(f"{n} {s}" for s, n in errors.items()) or "no errors"
        done(
            f"wrote {config.masks}: version {sink.state.version}, {sink.rows} images by {proposer_id} in "
            f"{seconds:.0f} s ({sink.images_per_second:.1f} a second once it ran), {listed}"
        )
        if sum(errors.values()) > config.max_error_rate * sink.rows:
            raise UserError(
                f"{sum(errors.values())} of {sink.rows} images could not be used ({listed}), more than "
                f"--max-error-rate {config.max_error_rate}: they are committed as such, see `mail-ris masks status`"
            )
        return {
            "proposer_id": proposer_id,
            "images": sink.rows,
            "statuses": dict(sink.statuses),
            "images_per_second": sink.images_per_second,
            "seconds": seconds,
            "version": sink.state.version,
            "digest": sink.state.digest,
        }
