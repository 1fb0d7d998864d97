"""The MODEL folder, as `mail-ris train` writes it: recognised, checked, loaded."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers.utils import logging as transformers_logging

from mail import addresses, json_text
from mail.errors import UserError
from mail.inventory import FILE, check_inventory, compared
from mail.model.configuration import MailConfig
from mail.model.modeling import MailForReferringSegmentation
from mail.model.processing import MailProcessor

INVENTORIES = (FILE, "checkpoint.json")  # a checkpoint is a MODEL too


def check_model_folder(path: str | os.PathLike) -> Path:
    """The path, if it is a MODEL folder or a checkpoint that holds one. Raises UserError otherwise."""
    folder = addresses.local_path(path)
    for candidate in (folder, folder / "model"):
        config = candidate / "config.json"
        if config.is_file():
            try:
                kind = json_text.parse_object(config.read_bytes()).get("model_type")
            except ValueError:
                raise UserError(f"{config} is not a JSON object: the model is damaged") from None
            if kind != MailForReferringSegmentation.config_class.model_type:
                raise UserError(f"{candidate} holds a model of type {kind!r}, not one that `mail-ris train` wrote")
            return candidate
    why = "it has no config.json" if folder.is_dir() else "there is no such folder"
    raise UserError(f"{folder} is not a model: {why} (`mail-ris train ... --out DIR` writes one)")


def load_model(folder: Path) -> tuple[MailForReferringSegmentation, MailProcessor]:
    """Network and processor. Raises UserError where the folder is damaged, or its weights are another network's."""
    with compared(folder, INVENTORIES), _reading(folder):
        found: Any = MailForReferringSegmentation.from_pretrained(folder, output_loading_info=True)
        model, loaded = found  # with the info asked for, a pair
        processor = MailProcessor.from_pretrained(folder)
    # transformers would go on with random numbers where a weight is missing
    _refuse(folder, {*loaded["missing_keys"], *loaded["unexpected_keys"], *map(str, loaded["mismatched_keys"])})
    return model, processor


def check_weights(folder: Path) -> MailProcessor:
    """Raises UserError where `load_model` would; loads no weights. Returns the processor."""
    check_inventory(folder, INVENTORIES)
    with _reading(folder):
        config = MailConfig.from_pretrained(folder)
        with torch.device("meta"):
            own = {k: list(v.shape) for k, v in MailForReferringSegmentation(config).state_dict().items()}
        with safe_open(folder / "model.safetensors", "pt") as file:  # checks that the file is whole
            given = {k: file.get_slice(k).get_shape() for k in file.keys()}  # noqa: SIM118  # it is no dictionary
        processor = MailProcessor.from_pretrained(folder)
    _refuse(folder, {k for k in own.keys() | given.keys() if own.get(k) != given.get(k)})
    return processor


@contextlib.contextmanager
def _reading(folder: Path) -> Iterator[None]:
    try:
        with quiet_transformers():
            yield
    except Exception as error:  # a damaged file raises whatever its reader raises
        raise UserError(f"{folder} cannot be loaded as a model: {type(error).__name__}: {error}") from error


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """No warnings and bars of transformers in between: what is wrong is told as an error."""
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()


def _refuse(folder: Path, wrong: set[str]) -> None:
    if wrong:
        raise UserError(
            f"the weights of {folder} are not those of this program's network: {len(wrong)} are missing or unknown, "
            f"first: {', '.join(sorted(wrong)[:3])}; they were written by another version, train again"
        )
