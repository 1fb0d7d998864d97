"""Mirrors of the REFER API's data sets in Parquet form, as the Hugging Face hub has them; read without the hub.

    jxu124/refcoco, refcocoplus, refcocog          a row a reference; `raw_anns` and `raw_image_info` are its annotation
                                                   and its photo as instances.json has them, in JSON
    jxu124/refcoco-benchmark, refclef-benchmark    a row a photo, of the evaluation splits only: `ref_list`, each with
                                                   `ref_info`, `ann_info` and `image_info`; a file's name begins with
                                                   the data set and whose split it is ("refcoco_plus_unc_val-")

The rows are put back into the published form, in a temporary folder, and read like that, so that ids and targets are
the same as from the pickles. The photos that a benchmark embeds are not read: COCO's own are. Mirrors without the ids
of references and sentences (lmms-lab/RefCOCO) cannot give the same ids and are refused.
"""

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mail.data import files
from mail.data.parquet import ParquetReader
from mail.data.typed import given, json_value, shown
from mail.errors import UserError

REFERENCES = ("ref_id", "ann_id", "image_id", "split", "sentences", "raw_anns", "raw_image_info")
PHOTOS = "ref_list"

Row = tuple[dict[str, Any], dict[str, Any], dict[str, Any]]  # a reference, its annotation, its photo


@dataclass(frozen=True, kw_only=True)
class Mirror:
    """How a data set is mirrored.

    Attributes:
        split_by: whose split the references are of, where there is a row a reference; None if there is no such mirror.
        prefix: what names of a benchmark's files begin with, before whose split they are of.
        splits: what the mirror calls splits that have another name.
        coco: whether categories are COCO's.
    """

    split_by: str | None
    prefix: str
    splits: Mapping[str, str] = field(default_factory=lambda: {"validation": "val"})
    coco: bool = True

    @property
    def remarks(self) -> tuple[str, ...]:
        names = "their names are COCO's own" if self.coco else "they are left empty"
        return (f"read from a mirror in Parquet form, which does not name categories: {names}",)

    def files(self, root: Path, dataset: str, split_by: str) -> list[Path]:
        """The Parquet files that ROOT stands for: itself, or those in it, in ROOT/data or in ROOT/DATASET-parquet; none
        where it is in the layout of the REFER API."""
        if root.is_file():
            return [root]
        if (root / dataset).is_dir():
            return []
        places = (root, root / "data", root / f"{dataset}-parquet")
        found = next((those for place in places if (those := sorted(place.glob("*.parquet")))), [])
        own = [file for file in found if file.name.startswith(f"{self.prefix}_{split_by}_")]
        return own or found

    def restored(self, parquet: Sequence[Path], split_by: str) -> tempfile.TemporaryDirectory:
        """The published form of some files, refs.json and instances.json, in a folder that is to be kept meanwhile.

        Raises:
            UserError: one is no such mirror.
        """
        refs: list[Any] = []
        annotations: dict[Any, Any] = {}
        pictures: dict[Any, Any] = {}
        for file in parquet:
            before = len(refs)
            try:
                for ref, annotation, picture in self._rows(file, split_by):
                    annotations[given(annotation, "id")] = annotation
                    pictures[given(picture, "id")] = picture
                    refs.append(ref)
            except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
                raise UserError(
                    f"{file}: reference {len(refs) - before + 1} is not as the mirrors have it: {error}"
                ) from None
        kept = tempfile.TemporaryDirectory(prefix="mail-mirror-")
        instances = {
            "images": list(pictures.values()),
            "annotations": list(annotations.values()),
            "categories": [{"id": i, "name": name} for i, name in enumerate(_coco_names() if self.coco else [])],
        }
        for name, content in (("refs", refs), ("instances", instances)):
            (Path(kept.name) / f"{name}.json").write_text(json.dumps(content))
        return kept

    def _rows(self, file: Path, split_by: str) -> Iterator[Row]:
        parquet = ParquetReader(*files.resolve(file))
        names = parquet.schema.names
        columns = [PHOTOS] if PHOTOS in names else list(REFERENCES)
        if not set(columns) <= set(names):
            raise UserError(
                f"{file} has the columns {', '.join(names)}: without the ids of references and sentences the "
                "expressions would get other ids than everybody's; jxu124/refcoco, refcocoplus, refcocog and "
                "refcoco-benchmark have them"
            )
        if PHOTOS not in names and split_by != self.split_by:
            raise UserError(f"{file} has the references of the split {self.split_by}, not of {split_by}")
        for batch in parquet.batches(columns, 64):
            for row in batch.to_pylist():
                if PHOTOS in row:
                    yield from ((i["ref_info"], i["ann_info"], i["image_info"]) for i in row[PHOTOS])
                else:
                    yield self._reference(row)

    def _reference(self, row: dict[str, Any]) -> Row:
        annotation, picture = (json_value(given(row, key)) for key in ("raw_anns", "raw_image_info"))
        if isinstance(annotation, list):
            annotation = next((a for a in annotation if isinstance(a, dict) and a.get("id") == row["ann_id"]), None)
        if not isinstance(annotation, dict) or not isinstance(picture, dict):
            raise ValueError(f"raw_anns and raw_image_info must be an annotation and an image, not {shown(annotation)}")
        ref = {key: row[key] for key in REFERENCES if not key.startswith("raw_")}
        return ref | {"split": self.splits.get(row["split"], row["split"])}, annotation, picture


def _coco_names() -> Sequence[str]:
    """COCO's categories by their number, "N/A" where it has none."""
    from torchvision.models.detection import MaskRCNN_ResNet50_FPN_Weights  # which takes seconds

    return MaskRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
