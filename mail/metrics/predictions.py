"""Predictions as files: JSON lines (`dumps` reads the forms of others).

    {"expr_id": "refcoco-unc/15214", "rle": {"size": [480, 640], "counts": "..."}, "score": 0.93, "selection": [0, 4]}
    {"expr_id": "grefcoco/77", "rle": null}                                        names nothing: the empty mask
    {"expr_id": "grefcoco/78", "rle": {...}, "no_target": true}                    a flag beside the mask, as ReLA's

`counts` is COCO's compressed string (a list of plain run lengths is read too), `size` the original image's
[height, width]. `score` (0 to 1) and `selection` (the chosen proposals' indices in the mask table) are optional.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pycocotools import mask as coco_mask

from mail import rle
from mail.data import files
from mail.data.segmentation import find_invalid
from mail.data.typed import json_value, text
from mail.errors import UserError


@dataclass(frozen=True, slots=True)
class Prediction:
    """One predicted mask in the image's original resolution; `rle` None is the empty mask."""

    rle: rle.RLE | None
    score: float | None = None
    selection: list[int] = field(default_factory=list)
    no_target: bool | None = None

    def to_json(self, expr_id: str) -> dict[str, Any]:
        """The line of the predictions file."""
        line: dict[str, Any] = {"expr_id": expr_id, "rle": self.rle and rle.to_json(self.rle)}
        if self.score is not None:
            line["score"] = round(self.score, 6)
        if self.selection:
            line["selection"] = [int(i) for i in self.selection]
        if self.no_target is not None:
            line["no_target"] = self.no_target
        return line

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> "tuple[str, Prediction]":
        """`expr_id` and prediction of a parsed line. Raises ValueError if it is not one."""
        if isinstance(row, dict) and type(row.get("expr_id")) is int:
            number = row["expr_id"]
            raise ValueError(f'"expr_id" {number} is a number: write it as the store does, "refcoco-unc/{number}"')
        if not isinstance(row, dict) or not isinstance(row.get("expr_id"), str):
            raise ValueError('a prediction is an object with a text "expr_id"')
        text(row["expr_id"], "expr_id")
        if "rle" not in row:
            raise ValueError(f'{row["expr_id"]} has no "rle" (write null for the empty mask)')
        score, selection = row.get("score"), row.get("selection") or []
        if score is not None and (isinstance(score, bool) or not isinstance(score, int | float)):
            raise ValueError(f'the "score" of {row["expr_id"]} is not a number')
        if score is not None and not 0 <= score <= 1:
            raise ValueError(f'the "score" of {row["expr_id"]} is {score}: it must lie between 0 and 1')
        if not isinstance(selection, list) or not all(isinstance(i, int) for i in selection):
            raise ValueError(f'the "selection" of {row["expr_id"]} is not a list of proposal indices')
        if not isinstance(flag := row.get("no_target"), bool | None):
            raise ValueError(f'the "no_target" of {row["expr_id"]} is neither true nor false')
        return row["expr_id"], cls(_parse_rle(row["rle"], row["expr_id"]), score, selection, flag)


@dataclass
class PredictionSet:
    """What a predictions file holds: masks by `expr_id` (the first one of a doubled id) and the ids that come again.

    Attributes:
        joined: by what its masks were found to be of their expressions.
    """

    source: str
    masks: dict[str, Prediction] = field(default_factory=dict)
    doubled: list[str] = field(default_factory=list)
    joined: str = "expr_id"


def write_predictions(path: str | os.PathLike, predictions: Mapping[str, Prediction]) -> None:
    """Writes JSON lines, sorted by `expr_id`, so that equal predictions are equal files."""
    lines = [json.dumps(predictions[e].to_json(e), separators=(",", ":")) for e in sorted(predictions)]
    filesystem, target = files.resolve(path)
    files.write_bytes(filesystem, target, "".join(line + "\n" for line in lines).encode())


def read_predictions(path: str | os.PathLike) -> PredictionSet:
    """Reads a JSON-lines file and checks every mask in it.

    Raises:
        UserError: no such file, or a line is not a prediction; names the line.
    """
    source = os.fspath(path)
    filesystem, target = files.resolve(path)
    try:
        data = files.read_bytes(filesystem, target)
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(f"there is no predictions file {source}") from None
    if data.lstrip().startswith(b"["):
        raise UserError(
            f"{source} holds one JSON array: write each prediction on a line of its own (JSON Lines), or COCO results "
            '({"image_id", "segmentation", "score"})'
        )
    result = PredictionSet(source)
    lines: list[tuple[int, str, rle.RLE]] = []
    for number, line in enumerate(data.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            expr_id, prediction = Prediction.from_json(json_value(line))
        except ValueError as error:
            raise UserError(f"{source}, line {number}: {error}") from None
        if expr_id in result.masks:
            result.doubled.append(expr_id)
            continue
        result.masks[expr_id] = prediction
        if prediction.rle is not None:
            lines.append((number, expr_id, prediction.rle))
    invalid = find_invalid([r["counts"] for *_, r in lines], [r["size"][0] * r["size"][1] for *_, r in lines])
    if invalid:
        number, expr_id, _ = lines[min(invalid)]
        more = f" ({len(invalid)} masks of this file are invalid)" if len(invalid) > 1 else ""
        raise UserError(f"{source}, line {number}: the mask of {expr_id} is invalid: {invalid[min(invalid)]}{more}")
    return result


def _parse_rle(value: Any, expr_id: str) -> rle.RLE | None:
    if value is None:
        return None
    size = value.get("size") if isinstance(value, dict) else None
    if not (isinstance(size, list) and len(size) == 2 and all(type(v) is int and 0 < v <= 2**20 for v in size)):
        raise ValueError(f'the "rle" of {expr_id} needs "size": [height, width] and "counts"')
    counts = value.get("counts")
    if isinstance(counts, str):
        # what is not ASCII cannot be run lengths; the check of all masks says so with the line
        return {"size": size, "counts": counts.encode("ascii", errors="replace")}
    if isinstance(counts, list) and all(type(v) is int and v >= 0 for v in counts):
        if sum(counts) != size[0] * size[1]:
            raise ValueError(f"the run lengths of {expr_id} add up to {sum(counts)} pixels, not {size[0] * size[1]}")
        return coco_mask.frPyObjects({"size": size, "counts": counts}, *size)
    raise ValueError(f'the "counts" of {expr_id} are neither a COCO string nor a list of run lengths')


def png_name(expr_id: str) -> str:
    """File name of an expression's mask in a folder of PNGs: slashes as `__`."""
    return expr_id.replace("/", "__") + ".png"
