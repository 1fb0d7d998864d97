"""Where a model comes from: every link is recorded by the stage that makes it, kept in the model's `lineage.json`.

model -> training run -> mask-table commit -> proposer -> images it saw
                      -> data store -> source files
                      -> code version, config
"""

import json
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mail
from mail.errors import UserError

if TYPE_CHECKING:
    from mail.data.mask_snapshot import MaskSnapshot
    from mail.data.store import DataStore

FILE = "lineage.json"
REQUIRED = {
    "run_id": "training run",
    "code_version": "code version",
    "config": "config",
    "data_store.digest": "data store",
    "data_store.sources": "source files of the data store",
    "mask_table.digest": "mask-table commit",
    "proposer.id": "proposer",
    "proposer.trained_on": "images that the proposer saw",
}
"""What must be there for a chain without a gap; the last three only where the model uses instance masks."""


def code_version() -> str:
    """The program's version, with the commit (and `+changed` for uncommitted changes) where it runs from a checkout."""
    if given := os.environ.get("MAIL_CODE_VERSION"):  # an image build knows the commit, the image does not
        return given
    try:
        commit = _git("rev-parse", "--short=12", "HEAD")
        changed = "+changed" if _git("status", "--porcelain", "--untracked-files=no") else ""
    except (OSError, subprocess.CalledProcessError):
        return mail.__version__
    return f"{mail.__version__} {commit}{changed}"


def _git(*arguments: str) -> str:
    root = Path(mail.__file__).resolve().parents[1]
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=20).stdout.strip()


def of_training(
    store: "DataStore", snapshot: "MaskSnapshot | None", config: dict[str, Any], run_id: str | None, leaky: bool
) -> dict[str, Any]:
    """The lineage of a training run's model.

    Args:
        snapshot: the masks it reads; None for a network without instance masks.
        leaky: whether the proposer or the training data saw evaluation images.
    """
    sources = [{k: s.get(k) for k in ("path", "sha256")} for s in store.manifest["sources"]]
    found: dict[str, Any] = {
        "run_id": run_id,
        "code_version": code_version(),
        "config": config,
        "data_store": {"uri": store.uri, "name": store.name, "digest": store.digest, "sources": sources},
        "mask_table": None,
        "proposer": None,
        "leaky": leaky,
    }
    if snapshot is not None:
        found["mask_table"] = snapshot.lineage
        found["proposer"] = {"id": snapshot.proposer_id, **snapshot.proposer}
    return found


def read(folder: str | os.PathLike) -> dict[str, Any]:
    """The lineage of a MODEL folder.

    Raises:
        UserError: there is none, or it cannot be read.
    """
    path = Path(folder) / FILE
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{folder} has no {FILE}: it is not a model that `mail-ris train` wrote") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is no JSON ({error}): the model's origin cannot be read") from None


def gaps(lineage: dict[str, Any]) -> list[str]:
    """The links that are missing, in words; empty for a whole chain."""
    missing = []
    for key, words in REQUIRED.items():
        if key.startswith(("mask_table", "proposer")) and not _uses_masks(lineage):
            continue
        value: Any = lineage
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if value in (None, "", [], {}):
            missing.append(words)
    return missing


def _uses_masks(lineage: dict[str, Any]) -> bool:
    config = lineage.get("config") or {}
    return config.get("proposals", "table") != "none"


def tree(lineage: dict[str, Any], title: str = "model") -> str:
    """The chain as an indented tree; a broken link is shown as broken."""
    store, masks = lineage.get("data_store") or {}, lineage.get("mask_table") or {}
    proposer = lineage.get("proposer") or {}
    lines = [title, f"├─ training run {_or_broken(lineage.get('run_id'))}"]
    lines.append(f"│  ├─ code {_or_broken(lineage.get('code_version'))}")
    config = lineage.get("config") or {}
    lines.append(
        f"│  └─ config {_or_broken(', '.join(f'{k}={config[k]}' for k in ('preset', 'name') if config.get(k)))}"
    )
    lines.append(
        f"├─ data store {store.get('name', '')} {_or_broken(_short(store.get('digest')))} {store.get('uri', '')}"
    )
    sources = store.get("sources") or [{}]
    for number, source in enumerate(sources):
        mark = "└" if number == len(sources) - 1 else "├"
        lines.append(f"│  {mark}─ source {_or_broken(source.get('path'))} {_short(source.get('sha256'))}")
    if _uses_masks(lineage):
        commit = f"commit {masks['commit']} " if "commit" in masks else ""
        lines.append(f"├─ mask table {commit}{_or_broken(_short(masks.get('digest')))} {masks.get('uri', '')}")
        lines.append(f"│  └─ proposer {_or_broken(proposer.get('id'))}")
        lines.append(f"│     └─ trained on {_or_broken(_trained_on(proposer.get('trained_on')))}")
    else:
        lines.append("├─ no instance masks")
    lines.append(f"└─ label {'LEAKY: evaluation images were seen in training' if lineage.get('leaky') else 'clean'}")
    return "\n".join(lines)


def _trained_on(value: Any) -> str:
    if isinstance(value, dict):
        return f"{value.get('count', '?')} images {_short(value.get('digest'))}"
    return f"{len(value)} images" if isinstance(value, list) else str(value or "")


def _short(digest: Any) -> str:
    return str(digest)[:12] if digest else ""


def _or_broken(text: Any) -> str:
    return str(text) if text else "BROKEN: not recorded"
