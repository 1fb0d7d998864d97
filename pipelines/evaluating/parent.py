"""The model that another one goes on from, to be compared with it: where it is, and what each was trained on."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mail.data.schema import VALIDATION_SPLIT, is_evaluation_split
from mail.errors import UserError
from mail.ingredients import training_store
from mail.lineage import model_digest
from mail.model.folder import check_model_folder
from pipelines.registry.models import resolve_model

COPY = "parent"  # beside a run's model


@dataclass(frozen=True)
class ParentModel:
    """A model's parent.

    Attributes:
        address: where it is. folder: of the model, on this machine. lineage: its own.
    """

    address: str
    folder: Path
    lineage: Mapping[str, Any]

    @classmethod
    def of(cls, child: Path, origin: Mapping[str, Any] | None) -> "ParentModel | None":
        """The parent of a model; None if it has none.

        Args:
            child: its folder, beside which the run keeps a copy. origin: its lineage.

        Raises:
            UserError: it has one, which is not there any more, or another model by now.
        """
        recorded = (origin or {}).get("parent")
        if not recorded:
            return None
        address, wrong = str(recorded.get("address")), []
        for place in (str(child.parent / COPY), address):
            try:
                folder = check_model_folder(resolve_model(place))
            except UserError as error:
                wrong.append(str(error))
                continue
            if model_digest(folder) == recorded.get("digest"):
                return cls(address if place == address else place, folder, recorded)
            wrong.append(f"{place} is another model by now")
        raise UserError(f"the model that {child} goes on from is not here: {wrong[-1]}")


def trained_on(lineage: Mapping[str, Any], splits: tuple[str, ...]) -> tuple[str, str | None, tuple[str, ...]]:
    """Data store and mask table that a model was trained on, and the splits that show what it can do on them.

    Args:
        splits: that are wanted; if the store has none of them, all that it holds out and that nothing was chosen by.

    Raises:
        UserError: they are not there any more, or others by now.
    """
    store, masks = training_store(lineage), lineage.get("mask_table") or {}
    own = tuple(s for s in store.splits if is_evaluation_split(s))
    chosen = tuple(s for s in splits if s in own) or tuple(s for s in own if s != VALIDATION_SPLIT) or own
    return store.uri, masks.get("uri"), chosen
