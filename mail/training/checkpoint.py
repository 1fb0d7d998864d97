"""Checkpoints: a MODEL folder that also holds the optimizer. Nothing in it is pickled.

    config.json, model.safetensors, processor and tokenizer files     loadable as MODEL
    README.md, mail_ris.py                                            card, and code for transformers' users
    optimizer.safetensors                                             AdamW's moments by parameter name
    run.json                                                          the resolved config of the run
    lineage.json                                                      where the model comes from
    curves.jsonl.gz                                                   all that was measured up to here
    checkpoint.json                                                   step, validation, and the inventory of the files

It is written where it costs a training the least, and then put into its place: there its files are on the disk before
`checkpoint.json` says what they are. A checkpoint counts only if all files that this names are there in full, so one
whose copying was cut short is passed over; training goes on only from one whose every file is what was written. There
is no state of random generators: the order of the data and the randomness of a step are functions of (seed, step), see
`mail.data.epoch_plan` and `mail.training.step`.
"""

import contextlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pyarrow import fs
from safetensors.torch import load_file, save_file
from torch import nn

from mail import addresses, json_text
from mail.data import files
from mail.data.filling import begun
from mail.errors import UserError
from mail.inventory import fault, flush_all, sealed, transfer
from mail.model.card import describe_folder
from mail.training.curves import Curves

FORMAT_VERSION = 1
MANIFEST = "checkpoint.json"
ASIDE = f"damaged-{MANIFEST}"


class Saved(NamedTuple):
    """A complete checkpoint: its address, its steps, and the oIoU of the validation that it was saved after."""

    address: str
    step: int
    oiou: float | None = None


def save_checkpoint(
    folder: Path,
    step: int,
    model: Any,
    processor: Any,
    optimizer: torch.optim.Optimizer,
    config: dict[str, Any],
    lineage: dict[str, Any],
    *,
    curves: Curves | None = None,
    scores: dict[str, float] | None = None,
) -> None:
    """Writes what a checkpoint after `step` completed steps holds into an empty folder; `put_checkpoint` completes it.

    Args:
        model: `MailForReferringSegmentation`, not wrapped.
        config: the run's resolved config, ready for JSON.
        curves: what was measured so far. scores: of the validation at this step, if there was one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    save_model(folder, model, processor, lineage, scores)
    save_file(_optimizer_tensors(model, optimizer), folder / "optimizer.safetensors")
    (folder / "run.json").write_text(json.dumps(config, indent=2))
    (curves or Curves()).save(folder)
    note_step(folder, step, scores)


def note_step(folder: Path, step: int, scores: dict[str, float] | None = None) -> None:
    """Notes after how many steps the files of a folder were written; `put_checkpoint` makes a checkpoint of them."""
    (folder / MANIFEST).write_text(json.dumps({"format_version": FORMAT_VERSION, "step": step, "validation": scores}))


def put_checkpoint(folder: Path, filesystem: fs.FileSystem, path: str, may: Callable[[], None] = lambda: None) -> None:
    """Puts what `save_checkpoint` wrote into its place, and completes it there. What is left in `folder` is worthless.

    Args:
        may: is asked before the checkpoint counts; raises if it must not.
    """
    written = json.loads((folder / MANIFEST).read_bytes())
    names = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST)
    with begun(path) if isinstance(filesystem, fs.LocalFileSystem) else contextlib.nullcontext():
        inventory = transfer(fs.LocalFileSystem(), str(folder), names, filesystem, path, move=True)
        manifest = sealed({**written, "files": inventory})
        if wrong := fault(manifest, filesystem, path, contents=False):  # an object store is asked for what it holds
            raise OSError(f"{path} does not hold what was written to it: {wrong}")
        may()
        files.write_bytes(filesystem, f"{path}/{MANIFEST}", json.dumps(manifest, indent=2).encode())


def save_model(
    folder: Path, model: Any, processor: Any, lineage: dict[str, Any], scores: dict[str, float] | None = None
) -> None:
    """Writes a MODEL folder. `scores`: of the validation at its step."""
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    describe_folder(folder, lineage, scores)
    (folder / "lineage.json").write_text(json.dumps(lineage, indent=2))


def load_optimizer(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Puts the moments of a checkpoint into the optimizer of a model that was loaded from it.

    Returns:
        The number of completed steps.

    Raises:
        UserError: the checkpoint is incomplete or fits another network.
    """
    manifest = read_manifest(*files.resolve(folder))
    if manifest is None:
        raise UserError(f"{folder} is no complete checkpoint: resume from an earlier one")
    tensors = load_file(folder / "optimizer.safetensors")
    parameters = dict(model.named_parameters())
    for key, value in tensors.items():
        kind, name = key.split("/", 1)
        if name not in parameters or (value.ndim and value.shape != parameters[name].shape):
            raise UserError(f"the optimizer state in {folder} does not fit the network: {name}")
        parameter = parameters[name]
        optimizer.state[parameter][kind] = value.to(parameter.device)  # also AdamW's step counter, as it is fused
    return int(manifest["step"])


def list_checkpoints(uri: str) -> list[Saved]:
    """Complete checkpoints anywhere below a local or `s3://` folder, most steps first."""
    return [saved for saved, _ in scan(uri)[0]]


def find_latest(uri: str) -> Saved | None:
    """The complete checkpoint with the most steps."""
    return next(iter(list_checkpoints(uri)), None)


def find_best(uri: str) -> Saved | None:
    """The complete checkpoint with the best oIoU on validation, the later one of equals; None without validations."""
    return _best(list_checkpoints(uri))


def _best(checkpoints: Iterable[Saved]) -> Saved | None:
    return max((c for c in checkpoints if c.oiou is not None), key=lambda c: (c.oiou, c.step), default=None)


def prune(uri: str, keep: int) -> list[str]:
    """Deletes all complete checkpoints but the newest `keep` (at least one) and the best on validation.

    What is incomplete may be on its way here, and goes only where `keep` newer ones are complete. A checkpoint's
    manifest goes first: what is left of it, if the deletion is cut short, is no checkpoint. Those that stay are on
    their disk before anything goes, for whoever copied them here need not have asked for that.

    Returns:
        The addresses that were deleted.
    """
    filesystem, root = files.resolve(uri)
    complete, incomplete = scan(uri)
    best = _best(saved for saved, _ in complete)
    gone = [path for saved, path in complete[max(keep, 1) :] if saved != best]
    if len(complete) >= max(keep, 1):
        gone += [path for step, path in incomplete if step < complete[max(keep, 1) - 1][0].step]
    if gone and isinstance(filesystem, fs.LocalFileSystem):
        for _, path in complete[: max(keep, 1)]:
            flush_all(Path(path))
    for path in gone:
        if files.exists(filesystem, f"{path}/{MANIFEST}"):
            filesystem.delete_file(f"{path}/{MANIFEST}")
        filesystem.delete_dir(path)
    return [address_below(uri, root, path) for path in gone]


def scan(uri: str) -> tuple[list[tuple[Saved, str]], list[tuple[int, str]]]:
    """Complete checkpoints and their paths, most steps first; steps and paths of folders that are none (yet)."""
    filesystem, root = files.resolve(uri)
    selector = fs.FileSelector(root, recursive=True, allow_not_found=True)
    complete: list[tuple[Saved, str]] = []
    incomplete: list[tuple[int, str]] = []
    folders = {i.path.rpartition("/")[0] for i in filesystem.get_file_info(selector) if i.type == fs.FileType.File}
    for folder in sorted(folders):
        if (manifest := read_manifest(filesystem, folder)) is not None:
            scores = manifest.get("validation") or {}
            complete.append(
                (Saved(address_below(uri, root, folder), int(manifest["step"]), scores.get("oIoU")), folder)
            )
        elif (step := folder.rpartition("/step-")[2]).isdigit():
            incomplete.append((int(step), folder))
    return sorted(complete, key=lambda c: (-c[0].step, c[0].address)), incomplete


def address_below(uri: str, root: str, path: str) -> str:
    """Address of a path below that of `uri`, which is `root` in its file system."""
    return addresses.join(uri, path.removeprefix(root).strip("/"))


def read_manifest(filesystem: fs.FileSystem, folder: str) -> dict[str, Any] | None:
    """The manifest of a complete checkpoint, None if it is not one (or not yet)."""
    manifest, wrong = judge(filesystem, folder)
    return manifest if wrong is None else None


def judge(filesystem: fs.FileSystem, folder: str) -> tuple[dict[str, Any], str | None]:
    """The manifest of a checkpoint, and what is wrong with it: its files' lengths are compared."""
    unlike = f"{MANIFEST} is not what was written"
    try:
        manifest = json_text.parse_object(files.read_bytes(filesystem, f"{folder}/{MANIFEST}"))
    except FileNotFoundError:
        return {}, f"{MANIFEST} is not there"
    except ValueError:
        return {}, unlike
    if type(manifest.get("step")) is not int or not isinstance(manifest.get("validation") or {}, dict):
        return {}, unlike
    return manifest, fault(manifest, filesystem, folder, contents=False)


def _optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    tensors = {}
    for name, parameter in model.named_parameters():
        for kind, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{kind}/{name}"] = value.detach().cpu().contiguous()
    return tensors
