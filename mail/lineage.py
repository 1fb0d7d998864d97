"""Where a model comes from: every link is recorded by the stage that makes it, kept in the model's `lineage.json`.

model -> training run -> mask-table version -> proposer -> what it saw
                      -> data store -> source files
                      -> code version, config
                      -> pre-trained encoder -> what it saw
                      -> parent -> ...

A model that goes on from another one has that one's whole lineage as its `parent`, with `address` and `digest`.

A chain is whole if every link was recorded (`gaps`) and what the links name is still there and still the same
(`broken_links`).
"""

import hashlib
import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import mail
from mail import json_text
from mail.data import files
from mail.data.mask_snapshot import MaskSnapshot
from mail.data.mask_table import MaskTable
from mail.data.origins import describe
from mail.data.published_origins import origin_of_encoder
from mail.data.store import DataStore
from mail.errors import UserError
from mail.ingredients import namespaces, training_store
from mail.inventory import FILE as INVENTORY
from mail.proposers.folder import ProposerFolder

FILE = "lineage.json"
PARENT = "the model that it goes on from"
REHEARSAL = "what it rehearsed"
SEEN = "images that the proposer saw"
REQUIRED = {
    "run_id": "training run",
    "code_version": "code version",
    "config": "config",
    "data_store.digest": "data store",
    "data_store.sources": "source files of the data store",
    "mask_table.digest": "mask-table version",
    "proposer.id": "proposer",
    "proposer.trained_on": SEEN,
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
    store: DataStore,
    snapshot: MaskSnapshot | None,
    config: dict[str, Any],
    run_id: str | None,
    leaky: bool,
    leaks: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """The lineage of a training run's model.

    Args:
        snapshot: the masks it reads; None for a network without instance masks.
        leaky: whether an ingredient saw evaluation images of the store, or nobody knows. leaks: which, and how many
            images of which split, as `mail.leakage.Overlap` has them.
    """
    begun = {"run_id": run_id, "code_version": code_version(), "config": config}
    found = begun | of_data(store, snapshot) | {"leaky": leaky, "leaks": [dict(leak) for leak in leaks]}
    if encoder := config.get("pretrained"):
        found["encoder"] = {"name": encoder, "trained_on": origin_of_encoder(encoder).summary}
    return found


def of_data(store: DataStore, snapshot: MaskSnapshot | None) -> dict[str, Any]:
    """The links to a data store, its masks and their proposer."""
    sources = [{k: s.get(k) for k in ("path", "sha256")} for s in store.manifest["sources"]]
    found: dict[str, Any] = {
        "data_store": {"uri": store.uri, "name": store.name, "digest": store.digest, "sources": sources},
        "mask_table": None,
        "proposer": None,
    }
    found["data_store"]["namespaces"] = namespaces(store)
    if snapshot is not None:
        found["mask_table"] = snapshot.lineage | {"uri": snapshot.uri}
        found["proposer"] = {"id": snapshot.proposer_id, **snapshot.proposer}
    return found


def model_digest(folder: Path) -> str:
    """sha256 over a MODEL's files that determine the network's output (not its proposer, nor what is told of it)."""
    total = hashlib.sha256()
    for path in sorted(p for p in folder.iterdir() if p.is_file() and p.name not in (FILE, INVENTORY, "README.md")):
        total.update(f"{path.name}\0{files.sha256_file(path)}\n".encode())
    return total.hexdigest()


def read(folder: str | os.PathLike) -> dict[str, Any]:
    """The lineage of a MODEL folder.

    Raises:
        UserError: there is none, or it cannot be read.
    """
    path = Path(folder) / FILE
    try:
        return json_text.parse_object(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{folder} has no {FILE}: it is not a model that `mail-ris train` wrote") from None
    except ValueError as error:
        raise UserError(f"{path} is no lineage ({error}): the model's origin cannot be read") from None


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
    if parent := lineage.get("parent"):
        missing += [f"{words} of {PARENT}" for words in gaps(parent)]
    return missing


def broken_links(lineage: dict[str, Any], model_dir: str | os.PathLike | None = None) -> dict[str, str]:
    """The links that were recorded and lead nowhere now, or to something else: name of the link -> what is wrong.

    Looks at the data store, at the mask-table version and, with `model_dir`, at the proposer that the model carries.
    """
    checks: dict[str, Callable[[dict[str, Any]], str | None]] = {"data store": _store_problem}
    if _uses_masks(lineage):
        checks |= {"mask-table version": _masks_problem, SEEN: _seen_problem}
        if model_dir is not None:
            checks["proposer"] = partial(_proposer_problem, model_dir=Path(model_dir))
    found = {}
    for name, check in checks.items():
        try:
            problem = check(lineage)
        except (UserError, OSError) as error:  # gone, damaged, or an object store that does not answer
            problem = str(error)
        if problem:
            found[name] = problem
    for name, link in ((PARENT, lineage.get("parent")), (REHEARSAL, lineage.get("rehearsal"))):
        if link:
            found |= {f"{what} of {name}": problem for what, problem in broken_links(link).items()}
    return found


def _store_problem(lineage: dict[str, Any]) -> str | None:
    recorded = lineage.get("data_store") or {}
    if not recorded.get("uri") or not recorded.get("digest"):
        return None  # a gap, which is said elsewhere
    training_store(lineage)
    return None


def _masks_problem(lineage: dict[str, Any]) -> str | None:
    recorded = lineage.get("mask_table") or {}
    if not recorded.get("uri") or not recorded.get("digest"):
        return None
    state = MaskTable(recorded["uri"]).log.at(int(recorded.get("version") or 0))
    if state.digest != recorded["digest"]:
        return f"{recorded['uri']} holds another version {state.version} now, digest {_short(state.digest)}"
    return None


def _seen_problem(lineage: dict[str, Any]) -> str | None:
    """The list of the images is kept in the mask table; the lineage has its digest."""
    masks, proposer = lineage.get("mask_table") or {}, lineage.get("proposer") or {}
    recorded = (proposer.get("trained_on") or {}).get("digest")
    if not recorded or not masks.get("uri") or not masks.get("proposer_id"):
        return None
    seen = MaskTable(masks["uri"]).snapshot(masks["proposer_id"]).origin()
    if seen.summary is None:
        return f"{masks['uri']} has lost the list of them"
    if seen.digest != recorded:
        return f"{masks['uri']} has another list of them now, {seen} {_short(seen.digest)}"
    return None


def _proposer_problem(lineage: dict[str, Any], model_dir: Path) -> str | None:
    if not (model_dir / "proposer").is_dir():
        return None  # it may be used with `--proposer`; whether a photo alone is enough is another question
    carried = ProposerFolder.read(model_dir / "proposer")
    # thresholds may have been chosen by `precompute`: they make another id of the same weights
    if (lineage.get("proposer") or {}).get("weights_sha256") not in (None, carried.weights_sha256):
        return f"the model carries another one, {carried.proposer_id}, than its masks are from"
    return None


def _uses_masks(lineage: dict[str, Any]) -> bool:
    config = lineage.get("config") or {}
    return config.get("proposals", "table") != "none"


def tree(lineage: dict[str, Any], title: str = "model", broken: Mapping[str, str] | None = None) -> str:
    """The chain as an indented tree; a link that was not recorded, or is in `broken`, is shown as broken.

    Args:
        broken: as `broken_links` gives them (and "training run", which only the tracking server knows of).
    """
    broken = broken or {}
    store, masks = lineage.get("data_store") or {}, lineage.get("mask_table") or {}
    proposer, config = lineage.get("proposer") or {}, lineage.get("config") or {}

    def link(name: str, text: Any, rest: str = "") -> str:
        mark = f"  BROKEN: {broken[name]}" if name in broken else ""
        return f"{_or_broken(text)} {rest}".rstrip() + mark

    settings = ", ".join(f"{k}={config[k]}" for k in ("preset", "name") if config.get(k))
    lines = [title, f"├─ training run {link('training run', lineage.get('run_id'))}"]
    lines.append(f"│  ├─ code {_or_broken(lineage.get('code_version'))}")
    lines.append(f"│  └─ config {_or_broken(settings)}")
    lines.append(
        f"├─ data store {store.get('name', '')} {link('data store', _short(store.get('digest')), store.get('uri', ''))}"
    )
    sources = store.get("sources") or [{}]
    for number, source in enumerate(sources):
        mark = "└" if number == len(sources) - 1 else "├"
        lines.append(f"│  {mark}─ source {_or_broken(source.get('path'))} {_short(source.get('sha256'))}".rstrip())
    if _uses_masks(lineage):
        version = f"version {masks['version']} " if "version" in masks else ""
        where = masks.get("uri", "")
        lines.append(f"├─ mask table {version}{link('mask-table version', _short(masks.get('digest')), where)}")
        lines.append(f"│  └─ proposer {link('proposer', proposer.get('id'))}")
        seen = proposer.get("trained_on")
        lines.append(f"│     └─ saw {link(SEEN, seen and describe(seen), _short((seen or {}).get('digest')))}")
    else:
        lines.append("├─ no instance masks")
    if encoder := lineage.get("encoder"):
        lines.append(f"├─ pre-trained encoder {encoder['name']}")
        lines.append(f"│  └─ saw {describe(encoder['trained_on'])}")
    if rehearsal := lineage.get("rehearsal"):
        old, share = rehearsal.get("data_store") or {}, (rehearsal.get("config") or {}).get("share")
        wrong = "".join(f"  BROKEN: {problem}" for name, problem in broken.items() if name.endswith(REHEARSAL))
        lines.append(f"├─ rehearsed {old.get('name', '')} {_or_broken(_short(old.get('digest')))} {share}{wrong}")
    if parent := lineage.get("parent"):
        of_parent = {n.removesuffix(f" of {PARENT}"): p for n, p in broken.items() if n.endswith(f" of {PARENT}")}
        known = f"{_or_broken(parent.get('address'))} {_short(parent.get('digest'))}".rstrip()
        first, *rest = tree(parent, f"goes on from {known}", of_parent).split("\n")
        lines += [f"├─ {first}", *(f"│  {line}" for line in rest)]
    lines.append(f"└─ label {f'LEAKY: {leaks(lineage)}' if lineage.get('leaky') else 'clean'}")
    return "\n".join(lines)


def leaks(record: Mapping[str, Any]) -> str:
    """Why a lineage, or an evaluation's figures, are labelled leaky, in words."""
    listed = [
        f"{leak['ingredient']} saw {leak['images'] or 'nobody knows how many'} of the {leak['of']} images of "
        f"{leak['split']}"
        for leak in record.get("leaks") or ()
    ]
    return ", ".join(listed) or "evaluation images were seen in training, or nobody knows"


def _short(digest: Any) -> str:
    return str(digest)[:12] if digest else ""


def _or_broken(text: Any) -> str:
    return str(text) if text else "BROKEN: not recorded"
