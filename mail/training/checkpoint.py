"""Checkpoints: a MODEL folder that also holds the optimizer. Nothing in it is pickled.

    config.json, model.safetensors, processor and tokenizer files     loadable as MODEL
    optimizer.safetensors                                             AdamW's moments by parameter name
    run.json                                                          the resolved config of the run
    lineage.json                                                      where the model comes from
    checkpoint.json                                                   step, and the size of every other file

A checkpoint counts only if all files that `checkpoint.json` names are there in full, so one whose copying was cut
short is passed over. There is no state of random generators: the order of the data and the randomness of a step are
functions of (seed, step), see `mail.data.epoch_plan` and `mail.training.step`.
"""

import json
from pathlib import Path
from typing import Any

import torch
from pyarrow import fs
from safetensors.torch import load_file, save_file
from torch import nn

from mail.data import files
from mail.errors import UserError

FORMAT_VERSION = 1
MANIFEST = "checkpoint.json"


def save_checkpoint(
    folder: Path,
    step: int,
    model: Any,
    processor: Any,
    optimizer: torch.optim.Optimizer,
    config: dict[str, Any],
    lineage: dict[str, Any],
) -> None:
    """Writes a checkpoint after `step` completed steps into an empty folder.

    Args:
        model: `MailForReferringSegmentation`, not wrapped.
        config: the run's resolved config, ready for JSON.
    """
    folder.mkdir(parents=True, exist_ok=True)
    save_model(folder, model, processor, lineage)
    save_file(_optimizer_tensors(model, optimizer), folder / "optimizer.safetensors")
    (folder / "run.json").write_text(json.dumps(config, indent=2))
    sizes = {str(p.relative_to(folder)): p.stat().st_size for p in sorted(folder.rglob("*")) if p.is_file()}
    manifest = {"format_version": FORMAT_VERSION, "step": step, "files": sizes}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2))


def save_model(folder: Path, model: Any, processor: Any, lineage: dict[str, Any]) -> None:
    """Writes a MODEL folder."""
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    (folder / "lineage.json").write_text(json.dumps(lineage, indent=2))


def load_optimizer(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Puts the moments of a checkpoint into the optimizer of a model that was loaded from it.

    Returns:
        The number of completed steps.

    Raises:
        UserError: the checkpoint is incomplete or fits another network.
    """
    manifest = read_manifest(*_local(folder))
    if manifest is None:
        raise UserError(f"{folder} is no complete checkpoint: resume from an earlier one")
    tensors = load_file(folder / "optimizer.safetensors")
    parameters = dict(model.named_parameters())
    for key, value in tensors.items():
        kind, name = key.split("/", 1)
        if name not in parameters or (value.ndim and value.shape != parameters[name].shape):
            raise UserError(f"the optimizer state in {folder} does not fit the network: {name}")
        parameter = parameters[name]
        # AdamW keeps its step counter on the CPU unless it is fused
        device = parameter.device if value.ndim or optimizer.defaults.get("fused") else torch.device("cpu")
        optimizer.state[parameter][kind] = value.to(device)
    return int(manifest["step"])


def list_checkpoints(uri: str) -> list[tuple[str, int]]:
    """Complete checkpoints anywhere below a local or `s3://` folder: addresses and steps, most steps first."""
    filesystem, root = files.resolve(uri)
    selector = fs.FileSelector(root, recursive=True, allow_not_found=True)
    prefix = "s3://" if uri.startswith("s3://") else ""
    found = []
    for info in filesystem.get_file_info(selector):
        if info.base_name == MANIFEST:
            folder = info.path.removesuffix(f"/{MANIFEST}")
            if (manifest := read_manifest(filesystem, folder)) is not None:
                found.append((prefix + folder, int(manifest["step"])))
    return sorted(found, key=lambda f: (-f[1], f[0]))


def find_latest(uri: str) -> tuple[str, int] | None:
    """The complete checkpoint with the most steps: its address and step."""
    return next(iter(list_checkpoints(uri)), None)


def read_manifest(filesystem: fs.FileSystem, folder: str) -> dict[str, Any] | None:
    """The manifest of a complete checkpoint, None if it is not one (or not yet)."""
    try:
        manifest = json.loads(files.read_bytes(filesystem, f"{folder}/{MANIFEST}"))
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    infos = filesystem.get_file_info([f"{folder}/{name}" for name in manifest["files"]])
    whole = all(
        i.type == fs.FileType.File and i.size == s for i, s in zip(infos, manifest["files"].values(), strict=True)
    )
    return manifest if whole else None


def _local(folder: Path) -> tuple[fs.FileSystem, str]:
    return fs.LocalFileSystem(), str(folder)


def _optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    tensors = {}
    for name, parameter in model.named_parameters():
        for kind, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{kind}/{name}"] = value.detach().cpu().contiguous()
    return tensors
