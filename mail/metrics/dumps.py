"""Predictions in the forms in which published systems write them, entry by entry; `joining` finds their expressions.

| form | an entry is | written by |
|---|---|---|
| folder of PNGs | `EXPR_ID.png` (slashes as `__`), `15214.png` | most |
| | `REF_ID-iou=71.20-left_man.png` | CRIS, `--visualize` |
| COCO results, JSON | `{"image_id", "segmentation", "score"}`, perhaps `sent_id` or `expr_id` | detectron2 |
| `torch.save`: `.pt`, `.pth` | `{"sent_info": {"sent_id"}, "sent", "pred_mask", "pred_nt"}` | ReLA and its kin |
| `numpy.savez`, `.save` | an array an expression, or one stack, with ids or without | own scripts |

A `.pt` file may also hold what an `.npz` does: masks by id, `masks` (N, H, W) with `ids`, `sent_ids` or `expr_ids`
beside them, or one stack alone. Masks are true and false, 0 and something, or probabilities, which the protocol's
threshold cuts. Where a detector gives several answers to one id, the one with the highest score is meant.

Nothing in a file is run: `torch.load` with `weights_only`, to which only numpy's arrays are added, and `numpy.load`
without pickles.
"""

import contextlib
import io
import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from mail import addresses, rle
from mail.data import files
from mail.data.mask_png import read_mask_png
from mail.data.segmentation import checked_mask
from mail.data.typed import json_value, number, whole_number
from mail.errors import UserError, first_few
from mail.metrics.predictions import Prediction

MASKS = ("pred_mask", "pred_masks", "mask", "masks", "segmentation", "rle")
IDS = ("expr_id", "expr_ids", "sent_id", "sent_ids", "id", "ids")
TEXTS = ("sent", "sentence", "text")
FLAGS = ("no_target", "pred_nt")


@dataclass(frozen=True)
class Entry:
    """One prediction of a file.

    Attributes:
        where: file and place in it, as messages begin.
        key: an `expr_id`, a file's name without its end, a number; None where only the place tells.
        read: the prediction; raises ValueError with what is wrong with it.
        text: the words that it answers, where the file says them.
    """

    where: str
    key: str | int | None
    read: Callable[[], Prediction]
    text: str | None = None


def read_entries(path: str | os.PathLike, threshold: float) -> list[Entry]:
    """The entries of a folder of PNGs, a COCO results file, or a dump of torch or numpy.

    Args:
        threshold: probability from which a pixel is foreground, where a file holds probabilities.

    Raises:
        UserError: it cannot be read, or is something else; names the file and the entry.
    """
    suffix = Path(os.fspath(path)).suffix.lower()
    if files.is_folder(path):
        return _pngs(path)
    if suffix in (".pt", ".pth"):
        return _entries(os.fspath(path), _torch(path), threshold)
    if suffix in (".npz", ".npy"):
        return _entries(os.fspath(path), _numpy(path), threshold)
    return _coco_results(path)


def is_dump(path: str | os.PathLike) -> bool:
    """Whether it is one of these forms, and not JSON lines."""
    if files.is_folder(path) or Path(os.fspath(path)).suffix.lower() in (".pt", ".pth", ".npz", ".npy"):
        return True
    with _opened(path) as file:
        begin = file.read(4096).lstrip()
    return begin.startswith(b"[") and b'"segmentation"' in begin


def mask_of(value: Any, threshold: float) -> rle.RLE | None:
    """Run lengths of a mask as others keep it: an array, a tensor, or COCO's run lengths; None: the empty mask.

    Raises:
        ValueError: it is none.
    """
    if value is None:
        return None
    if isinstance(value, Mapping):
        size = value.get("size")
        if not (isinstance(size, list | tuple) and len(size) == 2):
            raise ValueError('its run lengths need "size": [height, width] and "counts"')
        return checked_mask(value, *(whole_number(side, "a side of its run lengths") for side in size))
    if isinstance(value, list):
        raise ValueError("its mask is a list: write run lengths (pycocotools.mask.frPyObjects makes them of polygons)")
    try:
        array = np.asarray(value)
    except (TypeError, RuntimeError):  # of torch, which knows more kinds of numbers and tensors that have none
        raise ValueError("its mask is no plain array: save bool or uint8") from None
    while array.ndim > 2 and array.shape[0] == 1:
        array = array[0]
    if array.ndim != 2 or not array.size:
        raise ValueError(f"its mask has the shape {array.shape}, not (height, width)")
    if array.dtype.kind == "f":
        low, high = float(array.min()), float(array.max())
        if not (low >= 0 and high <= 1):  # nor NaN
            raise ValueError(f"its values go from {low:.3g} to {high:.3g}: probabilities between 0 and 1 are wanted")
        return rle.encode(array >= threshold)
    values = np.unique(array)
    if array.dtype.kind not in "biu" or len(values) > 2 or (len(values) == 2 and values[0] != 0):
        raise ValueError(f"it holds the values {first_few(values.tolist(), 4)}: a mask has two, 0 for the background")
    return rle.encode(array != 0)


def _pngs(folder: str | os.PathLike) -> list[Entry]:
    where = addresses.local_path(folder)

    def read(path: Path) -> Prediction:
        try:
            return Prediction(rle.encode(read_mask_png(path.read_bytes())))
        except OSError as error:
            raise ValueError(f"cannot be read: {error.strerror or error}") from None

    paths = sorted(p for p in where.iterdir() if p.suffix.lower() == ".png")
    return [Entry(str(p), p.stem, partial(read, p)) for p in paths]


def _coco_results(path: str | os.PathLike) -> list[Entry]:
    with _opened(path) as file:
        try:
            rows = json_value(file.read())
            if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
                raise ValueError("it is no array of results")
            numbers = [_key(row, place) for place, row in enumerate(rows, 1)]
        except ValueError as error:
            raise UserError(f"{os.fspath(path)}: {error}") from None
    best: dict[str | int, int] = {}
    for place, (key, row) in enumerate(zip(numbers, rows, strict=True)):
        if key not in best or _score(row) > _score(rows[best[key]]):
            best[key] = place
    return [_entry(f"{os.fspath(path)}, result {place + 1}:", key, rows[place], 0.5) for key, place in best.items()]


def _key(row: Mapping[str, Any], place: int) -> str | int:
    for name in ("expr_id", "sent_id", "image_id"):
        if (value := row.get(name)) is not None:
            return value if isinstance(value, str) else whole_number(value, f'the "{name}" of result {place}')
    raise ValueError(f"result {place} has no image_id, sent_id or expr_id")


def _score(row: Mapping[str, Any]) -> float:
    try:
        return number(row.get("score"), "a score")
    except ValueError:
        return -np.inf


def _entry(where: str, key: str | int | None, row: Mapping[str, Any], threshold: float) -> Entry:
    """Of a row with a name for each thing."""

    def read() -> Prediction:
        names = [name for name in MASKS if name in row]
        if not names:
            raise ValueError(
                f"it has no mask, only {first_few(sorted(map(str, row)), 8)}: {' or '.join(MASKS)} is wanted"
            )
        score, flag = _score(row), next((row[name] for name in FLAGS if row.get(name) is not None), None)
        if flag is not None and flag not in (0, 1):
            raise ValueError("what it says of no target is neither true nor false")
        return Prediction(
            mask_of(row[names[0]], threshold),
            score if 0 <= score <= 1 else None,
            no_target=None if flag is None else bool(flag),
        )

    said = next((row[name] for name in TEXTS if isinstance(row.get(name), str)), None)
    return Entry(where, key, read, said)


def _entries(source: str, value: Any, threshold: float) -> list[Entry]:
    """Of what a dump holds."""

    def entry(number: int, key: str | int | None, mask: Any) -> Entry:
        row = mask if isinstance(mask, Mapping) and "counts" not in mask else {"mask": mask}
        return _entry(f"{source}, entry {number}:", key, row, threshold)

    if isinstance(value, Mapping):
        stack = next((value[name] for name in MASKS if name in value), None)
        if stack is None:
            return [entry(n, _number(key), mask) for n, (key, mask) in enumerate(value.items(), 1)]
        ids = next((value[name] for name in IDS if name in value), None)
        value, keys = stack, None if ids is None else [_number(one) for one in np.asarray(ids).ravel().tolist()]
        if keys is not None and len(keys) != len(value):
            raise UserError(f"{source} has {len(value)} masks and {len(keys)} ids")
        return [entry(n, None if keys is None else keys[n - 1], mask) for n, mask in enumerate(value, 1)]
    if isinstance(value, Sequence) or (hasattr(value, "ndim") and value.ndim >= 3):
        rows: Iterable[Any] = value
        return [entry(n, _sentence(row), row) for n, row in enumerate(rows, 1)]
    raise UserError(f"{source} holds neither masks by id, nor a list of predictions, nor one stack of masks (N, H, W)")


def _sentence(row: Any) -> str | int | None:
    """The id that a row says itself, as ReLA's do in `sent_info`."""
    if not isinstance(row, Mapping):
        return None
    told = row.get("sent_info")
    for place in (row, told if isinstance(told, Mapping) else {}):
        for name in IDS[:4]:
            if (value := place.get(name)) is not None:
                return _number(value)
    return None


def _number(key: Any) -> str | int:
    """An id as text or as a whole number."""
    return key if isinstance(key, str | int) else str(key)


def _torch(path: str | os.PathLike) -> Any:
    import torch  # which the rest of the metrics can do without

    kinds = ("bool", "int8", "uint8", "int16", "int32", "int64", "float16", "float32", "float64")
    known: list[Any] = [np.ndarray, np.dtype, *(type(np.dtype(kind)) for kind in kinds)]
    for core in ("core", "_core"):  # numpy calls the module by its old or its new name
        known.append((np.zeros(1).__reduce__()[0], f"numpy.{core}.multiarray._reconstruct"))
        known.append((np.float64(0).__reduce__()[0], f"numpy.{core}.multiarray.scalar"))
    with _opened(path) as file, torch.serialization.safe_globals(known), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of pickles that are not torch's, which it then refuses
        try:
            return torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # of any kind, by what is wrong with the file
            named = re.search(r"(?i)unsupported (?:global|class|operand)[^\n]*?(?= (?:was|whose)\b|\n|$)", str(error))
            why = named[0] if named else str(error).strip().partition("\n")[0]
            raise UserError(
                f"{os.fspath(path)} cannot be read as masks alone ({why[:200] or type(error).__name__}): save tensors, "
                "arrays, lists, dictionaries, texts and numbers"
            ) from None


def _numpy(path: str | os.PathLike) -> Any:
    with _opened(path) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of files that Python 2 wrote
        try:
            found = np.load(file, allow_pickle=False)
            return {name: found[name] for name in found.files} if hasattr(found, "files") else found
        except Exception as error:  # zipfile's, zlib's, tokenize's, numpy's own
            why = str(error).partition("\n")[0] or type(error).__name__
            raise UserError(f"{os.fspath(path)} cannot be read as arrays ({why})") from None


@contextlib.contextmanager
def _opened(path: str | os.PathLike) -> Iterator[BinaryIO]:
    try:
        if addresses.remote_path(path) is None:
            with open(addresses.absolute(path), "rb") as file:
                yield file
        else:
            yield io.BytesIO(files.read_bytes(*files.resolve(path)))
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(f"there is no predictions file {os.fspath(path)}") from None
