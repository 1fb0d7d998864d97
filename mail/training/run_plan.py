"""What a training run is, worked out from its options before anything starts."""

import os
from dataclasses import asdict, dataclass
from typing import Any

import torch

from mail import lineage
from mail.data.epoch_plan import EpochPlan, ExpressionIndex
from mail.data.mask_snapshot import MaskSnapshot
from mail.data.mask_table import MaskTable
from mail.data.rehearsal import RehearsedPlan
from mail.data.schema import VALIDATION_SPLIT, is_evaluation_split
from mail.data.store import DataStore
from mail.errors import UserError
from mail.leakage import Verdict, check_leakage, check_split
from mail.model import MailConfig, TextCoverage, describe
from mail.training.beginning import Beginning, recipe
from mail.training.input import TrainingInput, texts, training_input, unusable_images
from mail.training.parent import PATIENCE, Parent
from mail.training.rehearsing import Rehearsal
from mail.training.settings import TrainingSettings
from mail.training.validation import Validation


@dataclass
class RunPlan:
    """Everything that the workers need, resolved.

    Attributes:
        settings: the recipe. beginning: network, vocabulary and weights before the first step.
        parent: the model that it goes on from, None for a network of its own. rehearsal: what
            is trained on besides, so that it is not forgotten.
        source, epochs: the training input and its order. validation: what to validate on, None for nothing.
        coverage: what of the training texts reaches the network.
        verdicts: whether the training split or the proposer saw evaluation images.
        config: the resolved config, for the record.
    """

    options: Any
    store: DataStore
    snapshot: MaskSnapshot | None
    settings: TrainingSettings
    beginning: Beginning
    parent: Parent | None
    rehearsal: Rehearsal | None
    source: TrainingInput
    epochs: EpochPlan | RehearsedPlan
    validation: Validation | None
    coverage: TextCoverage
    verdicts: list[Verdict]
    config: dict[str, Any]

    @classmethod
    def make(cls, options: Any, parent: Parent | None = None) -> "RunPlan":
        """Reads what the options name.

        Args:
            options: of a training, by the names of `pipelines.training.config.TrainConfig`.
            parent: the model to go on from.

        Raises:
            UserError: an option is wrong, or the masks do not cover the data.
        """
        preset = recipe(options, parent)
        settings = TrainingSettings(
            seed=options.seed,
            steps=_or(options.steps, preset.steps),
            global_batch_size=_or(options.global_batch_size, preset.global_batch_size),
            learning_rate=_or(options.learning_rate, preset.learning_rate),
            warmup_fraction=preset.warmup_fraction,
            decay=options.decay,
            optimizer=_or(options.optimizer, preset.optimizer),
            frozen_fraction=preset.frozen_fraction,
            tower_rate=preset.tower_rate,
            layer_decay=preset.layer_decay,
            weight_decay=preset.weight_decay,
            gradient_clip=preset.gradient_clip,
            rule=options.rule,
            expressions_per_image=preset.expressions_per_image,
            proposal_dropout=_or(options.proposal_dropout, preset.proposal_dropout),
        )
        store = DataStore(options.data)
        snapshot, unusable = None, {}
        if options.proposals == "table":
            snapshot = _snapshot(options)
            snapshot.check_covers(store.image_index["image_id"])
            unusable = unusable_images(snapshot)
        verdicts = [check_split(store, options.split, options.allow_leaky)]
        if snapshot is not None:
            proposer = f"proposer {snapshot.proposer_id}"
            verdicts.append(check_leakage(snapshot.origin(), store, None, options.allow_leaky, ingredient=proposer))
        if parent is not None:
            verdicts.append(parent.check_unseen(store, options.allow_leaky))
        index = ExpressionIndex.read(store, options.split, unusable)
        rehearsal = Rehearsal.read(options, parent, snapshot)
        spoken = texts(store, options.split)
        if rehearsal is not None:
            verdicts.append(rehearsal.verdict(store, options.allow_leaky))
            spoken += rehearsal.texts
        beginning = Beginning.of(options, preset, parent, spoken)
        network, processor = beginning.network, beginning.processor
        order = EpochPlan(
            index,
            settings.global_batch_size,
            settings.seed,
            settings.rule,
            settings.expressions_per_image,
            settings.window_groups,
        )
        source = training_input(store, index, snapshot, processor, settings.seed, settings.proposal_dropout)
        epochs: EpochPlan | RehearsedPlan = order
        if rehearsal is not None:
            source, epochs = rehearsal.join(source, order)
        config = {
            "name": options.name,
            "preset": options.preset if parent is None else parent.preset,
            "proposals": options.proposals,
            "split": options.split,
            "data": store.uri,
            "data_digest": store.digest,
            "masks": snapshot.uri if snapshot else None,
            "masks_digest": snapshot.digest if snapshot else None,
            "pretrained": beginning.pretrained,
            "recipe": settings.to_dict(),
            "network": {k: v for k, v in network.to_diff_dict().items() if k != "transformers_version"},
        }
        if parent is not None:
            config["parent"] = {"asked": parent.asked, "address": parent.address, "digest": parent.digest}
        if patience := _patience(options, parent):
            config["patience"] = patience
        if rehearsal is not None:
            config["rehearsal"] = rehearsal.config
        validation = _validation(options, store, unusable)
        begin, coverage = (beginning, parent, rehearsal), processor.coverage(spoken)
        return cls(options, store, snapshot, settings, *begin, source, epochs, validation, coverage, verdicts, config)

    @property
    def network(self) -> MailConfig:
        return self.beginning.network

    @property
    def patience(self) -> int:
        """Validations without a better one after which the training ends; 0: it never does."""
        return _patience(self.options, self.parent)

    def describe(self) -> dict[str, Any]:
        """The plan and its cost, ready for JSON."""
        index, network = self.epochs.index, describe(self.network)
        steps = self.settings.steps
        return {
            "config": self.config,
            "network": network,
            "fetched_from_the_hugging_face_hub": list(self.beginning.fetched),
            "training": {
                "images": self.images,
                "expressions": len(index),
                "skipped_images": index.skipped_images,
                "skipped_expressions": index.skipped_expressions,
                "expressions_per_epoch": self.epochs.expressions_per_epoch,
                "steps_per_epoch": round(self.epochs.steps_per_epoch, 2),
                "epochs": round(steps / self.epochs.steps_per_epoch, 2),
                "steps": steps,
                "validation_expressions": len(self.validation.rows) if self.validation else 0,
                "validation": self.validation.split if self.validation else self.not_validated,
                # forward and twice that backward
                "total_flops": 3 * network["forward_flops_per_expression"] * steps * self.settings.global_batch_size,
            },
            "texts": self.coverage.to_dict(),
            "leaky": self.leaky,
            "hardware": {"cpus": os.cpu_count(), "gpus": torch.cuda.device_count()},
        }

    @property
    def leaky(self) -> bool:
        return any(verdict.leaky for verdict in self.verdicts)

    @property
    def images(self) -> int:
        return len(set(self.epochs.index.image.tolist()))

    def summary(self) -> list[str]:
        """What a person should know before it starts."""
        index = self.epochs.index
        lines = [
            f"{self.images} images, {len(index)} expressions of split {self.options.split}; "
            f"{self.settings.steps} steps of {self.settings.global_batch_size} are "
            f"{self.settings.steps / self.epochs.steps_per_epoch:.1f} epochs"
        ]
        if self.parent is not None:
            lines.append(f"going on from the model {self.parent.address}, digest {self.parent.digest[:12]}")
        if self.rehearsal is not None:
            lines.append(self.rehearsal.describe())
        lines += self.beginning.remarks
        lines.append(self.coverage.describe())
        if index.skipped_images:
            lines.append(
                f"left out: {index.skipped_images} images that cannot be decoded, with "
                f"{index.skipped_expressions} expressions (`mail-ris masks status` lists them)"
            )
        if self.beginning.fetched:
            lines.append(
                f"from the Hugging Face hub: {', '.join(self.beginning.fetched)} (a folder with the same files does as "
                "well, for all workers: --pretrained FOLDER)"
            )
        lines += [remark for verdict in self.verdicts for remark in verdict.remarks]
        if self.leaky:
            lines.append("LEAKY: evaluation images were seen, or nobody knows; the model will be labelled so")
        if self.validation is None:
            lines.append(self.not_validated)
        return lines

    @property
    def not_validated(self) -> str:
        """Why nothing is validated."""
        if not self.options.validation_expressions:
            return "no validation: --validation-expressions is 0"
        split = self.options.validation_split or VALIDATION_SPLIT
        if split in self.store.splits:
            return f"no validation: no image of split {split!r} can be used"
        others = [s for s in sorted(self.store.splits) if is_evaluation_split(s)]
        named = f"; it has {', '.join(others)}: name one with --validation-split" if others else " besides train"
        return f"no validation: the data store has no split {split!r}{named}"

    def tags(self) -> dict[str, str]:
        """Labels of the MLflow run: by whom the masks are, and what was left out."""
        index = self.epochs.index
        return {
            "proposer_id": self.snapshot.proposer_id if self.snapshot else "",
            "leaky": str(self.leaky).lower(),
            "skipped_images": str(index.skipped_images),
            "skipped_expressions": str(index.skipped_expressions),
            "code_version": lineage.code_version(),
        }

    def lineage(self, run_id: str | None) -> dict[str, Any]:
        leaks = [asdict(overlap) for verdict in self.verdicts for overlap in verdict.overlaps]
        found = lineage.of_training(self.store, self.snapshot, self.config, run_id, self.leaky, leaks)
        if self.rehearsal is not None:
            found["rehearsal"] = self.rehearsal.lineage
        return found if self.parent is None else found | {"parent": self.parent.record}


def _snapshot(options: Any) -> MaskSnapshot:
    if options.masks is None:
        raise UserError(
            "--masks is missing: give the mask table that `mail-ris precompute` filled, or --proposals none"
        )
    return MaskTable(options.masks).snapshot(options.proposer_id)


def _validation(options: Any, store: DataStore, unusable: Any) -> Validation | None:
    if options.validation_expressions < 1 or (
        options.validation_split is None and VALIDATION_SPLIT not in store.splits
    ):
        return None
    split = store.check_split(options.validation_split or VALIDATION_SPLIT)
    try:
        index = ExpressionIndex.read(store, split, unusable)
    except UserError:  # nothing usable in it: `summary` says so
        return None
    return Validation.choose(index, split, options.validation_expressions)


def _patience(options: Any, parent: Parent | None) -> int:
    return _or(options.patience, PATIENCE if parent is not None else 0)


def _or(given: Any, default: Any) -> Any:
    return default if given is None else given
