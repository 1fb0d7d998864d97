"""The model that a training goes on from: what it is, what it was trained with, and the recipe that follows from it."""

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from mail import lineage
from mail.data.store import DataStore
from mail.errors import UserError
from mail.ingredients import generations
from mail.leakage import Verdict, check_model
from mail.model import MailConfig, MailProcessor
from mail.model.folder import check_model_folder, check_weights
from mail.model.presets import Preset

# for a few hundred photos; `python -m benchmarks.fine_tune` measures them
STEPS = 400
LEARNING_RATE_SHARE = 0.5
"""Of the learning rate that the network was first trained with."""
PATIENCE = 6
"""Validations without a better one, of about twenty."""


@dataclass(frozen=True, kw_only=True)
class Parent:
    """A MODEL to go on from, whole.

    Attributes:
        asked: its address as it was given. address: the one that always means this model, where there is one.
        digest: of the files that determine its answers. lineage: None if it has none.
    """

    asked: str
    address: str
    digest: str
    lineage: dict[str, Any] | None
    network: MailConfig
    processor: MailProcessor

    @classmethod
    def read(cls, folder: str | os.PathLike, asked: str, address: str, digest: str) -> "Parent":
        """Reads a local MODEL folder; every file is compared with its inventory.

        Raises:
            UserError: it is no model, or damaged.
        """
        folder = check_model_folder(folder)
        processor = check_weights(folder)
        origin = lineage.read(folder) if (folder / lineage.FILE).exists() else None
        network = MailConfig.from_pretrained(folder)
        return cls(asked=asked, address=address, digest=digest, lineage=origin, network=network, processor=processor)

    @property
    def record(self) -> dict[str, Any]:
        """What the child's lineage has of it: all of its own, with where it was and which it is."""
        return {**(self.lineage or {}), "address": self.address, "digest": self.digest}

    def recipe(self) -> Preset:
        """The recipe of a fine-tuning: the one that it was trained with, fewer steps, a lower learning rate."""
        recipe = self._trained_with(self.lineage)
        *_, first = generations(self.lineage or {"": None})
        rate = self._trained_with(first).get("learning_rate", Preset.learning_rate)
        # AdamW, whatever the parent was trained with: what a fine-tuning gains was measured with it. Nothing is frozen:
        # there is nothing new that the tower would have to wait for
        own = ("steps", "learning_rate", "optimizer", "frozen_fraction")
        kept = [f.name for f in fields(Preset) if f.name in recipe and f.name not in own]
        return Preset(
            config=lambda: self.network,
            **{name: recipe[name] for name in kept},
            learning_rate=rate * LEARNING_RATE_SHARE,
            steps=STEPS,
        )

    @property
    def preset(self) -> str | None:
        """Name of the preset that its network is of, where that is known."""
        return ((self.lineage or {}).get("config") or {}).get("preset")

    def check_unseen(self, store: DataStore, allow_leaky: bool) -> Verdict:
        """Whether it was trained on evaluation images of a store, or nobody can tell.

        Raises:
            UserError: it is so, and not allowed.
        """
        what = f"the model {self.address}"
        found = Verdict.together(check_model(self.lineage, store, split, allow_leaky, what) for split in store.splits)
        if found.leaky and not allow_leaky:
            leaks = lineage.leaks({"leaks": [asdict(overlap) for overlap in found.overlaps]})
            raise UserError(
                f"{what} leaks on {store.name}: {leaks}. Go on from another one, "
                "or --allow-leaky to label this one as leaky too"
            )
        return found

    @staticmethod
    def _trained_with(origin: Mapping[str, Any] | None) -> dict[str, Any]:
        return ((origin or {}).get("config") or {}).get("recipe") or {}
