"""A finished evaluation: what it gave, told within a second, where the same command would read the same again.

    OUT/.finished.json      what was asked for, digests of what was read, the inventory of what was written

Nothing here imports torch.
"""

import json
from pathlib import Path
from typing import Any

from pyarrow import fs

from mail import json_text, lineage
from mail.data import files
from mail.data.mask_table import MaskTable
from mail.data.store import DataStore
from mail.errors import UserError
from mail.inventory import fault, sealed, take_inventory
from pipelines.evaluating.config import EvaluationConfig
from pipelines.registry.models import resolve_model
from pipelines.terminal import done

FILE = ".finished.json"


def tell(config: EvaluationConfig) -> bool:
    """Tells what the evaluation in the folder gave, if it is this very one; whether it is."""
    try:
        record = json_text.parse_object((config.out / FILE).read_bytes())
        same = record["asked"] == config.asked("workers") and record["read"] == _read(
            config, resolve_model(config.model), record["read"]["proposer_id"]
        )
    except (OSError, ValueError, KeyError, TypeError, UserError):  # what is wrong is told by whoever evaluates
        return False
    if not same or fault(record, fs.LocalFileSystem(), str(config.out), contents=True) is not None:
        return False
    done(f"{record['told']} (finished before, of the same model, data and options)")
    return True


def note(new: Path, config: EvaluationConfig, model: Path, proposer_id: str | None, told: str) -> None:
    """Writes the record of an evaluation beside its files, into the folder where they are put together.

    Args:
        model: local folder of it. proposer_id: of the masks that were read. told: the line that says what it gave.
    """
    record = {"asked": config.asked("workers"), "read": _read(config, model, proposer_id), "told": told}
    (new / FILE).write_text(json.dumps(sealed({**record, "files": take_inventory(new)})))


def _read(config: EvaluationConfig, model: Path, proposer_id: str | None) -> dict[str, Any]:
    masks = MaskTable(config.masks).snapshot(proposer_id).digest if config.masks and proposer_id else None
    other = config.compare and files.sha256_file(config.compare / "per_expression.jsonl")
    return {
        "code_version": lineage.code_version(),
        "model": lineage.model_digest(model),
        "store": DataStore(config.data).digest,
        "proposer_id": proposer_id,
        "masks": masks,
        "compare": other,
    }
