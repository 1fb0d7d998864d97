"""What a fine-tuning rehearses, so that the network does not forget it: a data store, its masks, and how much of it."""

from dataclasses import dataclass
from typing import Any

from mail import lineage
from mail.data.epoch_plan import EpochPlan
from mail.data.expression_index import ExpressionIndex
from mail.data.mask_snapshot import MaskSnapshot
from mail.data.mask_table import MaskTable
from mail.data.rehearsal import JoinedMasks, JoinedRows, RehearsedPlan
from mail.data.row_groups import RowReader
from mail.data.schema import is_evaluation_split
from mail.data.store import DataStore
from mail.errors import UserError
from mail.leakage import Verdict, check_leakage
from mail.training.input import TrainingInput, texts, training_input, unusable_images
from mail.training.parent import Parent


@dataclass(frozen=True)
class Rehearsal:
    """A split of a data store that is rehearsed.

    Attributes:
        snapshot: its masks, None without. share: of the expressions of every step.
    """

    store: DataStore
    split: str
    snapshot: MaskSnapshot | None
    index: ExpressionIndex
    share: float

    @classmethod
    def read(cls, options: Any, parent: Parent | None, own: MaskSnapshot | None) -> "Rehearsal | None":
        """What the options name; None if that is nothing.

        Args:
            own: the masks of the data that is to be learned.

        Raises:
            UserError: there is no model to go on from, or the masks do not cover the data.
        """
        if options.rehearse is None:
            if options.rehearse_masks is not None:
                raise UserError("--rehearse-masks goes with --rehearse STORE")
            return None
        if parent is None:
            raise UserError("--rehearse goes with --from MODEL: it rehearses what that model was trained on")
        store = DataStore(options.rehearse)
        trained = ((parent.lineage or {}).get("config") or {}).get("split")
        split = store.check_split(trained if trained in store.splits else "train")
        if is_evaluation_split(split):
            raise UserError(f"{store.uri} has no split to rehearse: {split} is for evaluation")
        snapshot, unusable = None, {}
        if own is not None:
            known = ((parent.lineage or {}).get("mask_table") or {}).get("uri")
            masks = options.rehearse_masks or known
            if masks is None:
                raise UserError("--rehearse-masks is missing: give the mask table of the data store to rehearse")
            table = MaskTable(masks)
            same = own.proposer_id if own.proposer_id in table.head().proposer_ids else None
            snapshot = table.snapshot(same)
            snapshot.check_covers(store.image_index["image_id"])
            unusable = unusable_images(snapshot)
        return cls(store, split, snapshot, ExpressionIndex.read(store, split, unusable), options.share)

    @property
    def texts(self) -> list[str]:
        return texts(self.store, self.split)

    def verdict(self, store: DataStore, allow_leaky: bool) -> Verdict:
        """Whether evaluation images of the data that is to be learned are rehearsed.

        Raises:
            UserError: they are, and that is not allowed.
        """
        seen = self.store.image_keys([self.split])[self.split]
        what, mend = f"a model that rehearses {self.store.name}", "Leave those photos out of one of the two"
        return check_leakage(seen, store, None, allow_leaky, what, mend, f"rehearsal {self.store.name}")

    def join(self, source: TrainingInput, epochs: EpochPlan) -> tuple[TrainingInput, RehearsedPlan]:
        """The input and the order of training with the rehearsal in it."""
        settings = (epochs.global_batch_size, epochs.seed, epochs.rule, epochs.piece, epochs.window_groups)
        own, old = epochs.index, EpochPlan(self.index, *settings)
        offsets = (int(own.expression_groups.starts[-1]), int(own.image_groups.starts[-1]))
        theirs = training_input(self.store, self.index, self.snapshot, source.processor)
        assert not isinstance(source.snapshot, JoinedMasks)
        assert isinstance(source.image_rows, RowReader)
        assert isinstance(source.expression_rows, RowReader)
        assert isinstance(theirs.image_rows, RowReader)
        assert isinstance(theirs.expression_rows, RowReader)
        masks: Any = source.snapshot
        if source.snapshot is not None and self.snapshot is not None and self.snapshot != source.snapshot:
            masks = JoinedMasks(source.snapshot, self.snapshot)
        joined = TrainingInput(
            f"{source.store_uri} or {self.store.uri}",
            JoinedRows(source.image_rows, theirs.image_rows, offsets[1]),
            JoinedRows(source.expression_rows, theirs.expression_rows, offsets[0]),
            masks,
            source.processor,
            source.seed,
            source.proposal_dropout,
        )
        return joined, RehearsedPlan(epochs, old, self.share, offsets)

    @property
    def config(self) -> dict[str, Any]:
        """What the run's config has of it."""
        return {
            "data": self.store.uri,
            "data_digest": self.store.digest,
            "masks": self.snapshot.uri if self.snapshot else None,
            "masks_digest": self.snapshot.digest if self.snapshot else None,
            "split": self.split,
            "share": self.share,
        }

    @property
    def lineage(self) -> dict[str, Any]:
        """A link of the lineage, in the form of a whole one."""
        link = lineage.of_data(self.store, self.snapshot)
        return link | {"address": self.store.uri, "config": {"split": self.split, "share": self.share}}

    def describe(self) -> str:
        """A line for whoever starts it."""
        masks = f", masks of {self.snapshot.proposer_id}" if self.snapshot is not None else ""
        return (
            f"rehearsing {self.store.name}, {len(self.index)} expressions of split {self.split}: {self.share:.0%} of "
            f"every step{masks}"
        )
