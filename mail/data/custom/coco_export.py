"""COCO's JSON with sentences, as CVAT and Roboflow export it: each annotation is a thing, and says what people call it.

The sentence is in the annotation (`caption`, say) or among its `attributes`, one a line, under a usual name or the one
that `--text-field` gives; `category` takes the category's name. Annotations without one are left out and
counted. Roboflow's folders `train`, `valid` and `test` are splits.
"""

from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any

from mail.data.coco import CocoInstances
from mail.data.custom.described import SENTENCES, Described, given_id, given_names, sentences
from mail.data.custom.source import Reading, SourceFile

ROBOFLOW = "_annotations.coco.json"
_FOLDERS = {"train": "train", "valid": "val", "test": "test"}


def fits(file: SourceFile) -> bool:
    """Whether the file has images and annotations."""
    try:
        value = file.json
    except ValueError:
        return False
    return isinstance(value, dict) and all(isinstance(value.get(key), list) for key in ("images", "annotations"))


def read(files: Sequence[SourceFile], reading: Reading) -> Iterator[Described]:
    """What the annotations of the files say.

    Raises:
        UserError: a file is not COCO's (`mail.data.coco`).
    """
    for file in files:
        coco = CocoInstances(file.address)
        for ann_id in coco.annotation_ids.tolist():
            where = file.at(f"annotation {ann_id}")
            try:
                found = _annotation(coco, ann_id, file, reading, where)
            except ValueError as error:
                reading.problems.add("annotations cannot be used", f"{where}: {error}")
                continue
            if found is None:
                reading.silent += 1
            else:
                yield found


def _annotation(coco: CocoInstances, ann_id: int, file: SourceFile, reading: Reading, where: str) -> Described | None:
    published = coco.published(ann_id)
    attributes = published.get("attributes")
    fields: dict[str, Any] = {**published, **(attributes if isinstance(attributes, dict) else {})}
    category = coco.name_of(coco.instance(ann_id).category_id)
    if reading.text_field == "category":
        said, category = sentences(category, "the category"), ""
    else:
        key = reading.text_field or next((key for key in SENTENCES if fields.get(key)), None)
        said = sentences(fields.get(key), key) if key else []
    if not said:
        return None
    image = coco.images.get(coco.image_of(ann_id) or 0)
    if image is None:
        raise ValueError(f"its image {coco.image_of(ann_id)} is not listed")
    names, expr_id = given_names(fields), given_id(fields)
    if expr_id is not None and len(said) > 1:
        raise ValueError(f"it has one expr_id for {len(said)} sentences")
    names["split"] = names["split"] or _split(file)
    return Described(
        where=where,
        images=file.photo_names(image.file_name),
        texts=[(expr_id, sentence) for sentence in said],
        parts=[published.get("segmentation") or []],
        size=(image.height, image.width),
        **names | {"category": names["category"] or category},
    )


def _split(file: SourceFile) -> str | None:
    """Roboflow's split: the folder of the file."""
    path = PurePosixPath(file.address)
    return _FOLDERS.get(path.parent.name) if path.name == ROBOFLOW else None
