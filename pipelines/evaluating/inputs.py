"""What an evaluation reads besides the split: the counts that it is compared with, and the masks."""

from pathlib import Path
from typing import Any

from mail.data.mask_snapshot import MaskSnapshot
from mail.data.mask_table import MaskTable
from mail.errors import UserError
from mail.metrics import Accumulator, read_per_expression
from mail.metrics.protocols import Protocol
from mail.model import MailConfig
from pipelines.evaluating.config import EvaluationConfig
from pipelines.terminal import say


def read_other(folder: Path, protocol: Protocol) -> Accumulator:
    """The counts of another evaluation. Raises UserError if they were made by another protocol."""
    theirs = read_per_expression(folder / "per_expression.jsonl")
    if theirs.protocol != protocol:
        raise UserError(f"{folder} was counted by protocol {theirs.protocol.name}, not {protocol.name}")
    return theirs


def find_snapshot(config: EvaluationConfig, folder: Path, origin: dict[str, Any] | None) -> MaskSnapshot | None:
    """The masks to read: those that the model was trained with, where nothing else is asked for."""
    if config.no_proposals or not MailConfig.from_pretrained(folder).uses_instances:
        if config.masks and not config.no_proposals:
            say(f"{folder} is a network without instance masks: {config.masks} is not read")
        return None
    if config.masks is None:
        raise UserError("this model reads instance masks: name the mask table with --masks, or say --no-proposals")
    trained_with = ((origin or {}).get("mask_table") or {}).get("proposer_id")
    table = MaskTable(config.masks)
    proposer_id = config.proposer_id
    if proposer_id is None and trained_with is not None:
        proposer_id = trained_with if trained_with in table.head().proposer_ids else None
    snapshot = table.snapshot(proposer_id)
    if trained_with is not None and snapshot.proposer_id != trained_with:
        say(f"the model was trained with masks of {trained_with}, these are of {snapshot.proposer_id}")
    return snapshot
