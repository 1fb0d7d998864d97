"""The same expressions in every format that `prepare custom` reads, each in the form that its tool writes."""

import base64
import csv
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mail import rle
from mail.data.segmentation import checked_mask


@dataclass(frozen=True)
class Item:
    """An expression, with all that there is to say about it."""

    expr_id: str
    ref_id: str
    split: str
    image: str
    size: tuple[int, int]
    text: str
    category: str
    polygons: list[list[float]]

    @property
    def names(self) -> dict[str, str]:
        keys = ("expr_id", "ref_id", "split", "category")
        return {key: getattr(self, key) for key in keys}

    @property
    def row(self) -> dict[str, Any]:
        return self.names | {"image": self.image, "text": self.text}

    @property
    def mask(self) -> np.ndarray:
        return rle.decode(checked_mask(self.polygons, *self.size))

    @property
    def compressed(self) -> dict[str, Any]:
        encoded = checked_mask(self.polygons, *self.size)
        return {"size": list(self.size), "counts": encoded["counts"].decode()}

    @property
    def uncompressed(self) -> dict[str, Any]:
        flat = self.mask.ravel(order="F")
        ends = [*(np.flatnonzero(flat[1:] != flat[:-1]) + 1).tolist(), flat.size]
        counts = np.diff([0, *ends]).tolist()
        return {"size": list(self.size), "counts": [0] * bool(flat[0]) + counts}

    @property
    def box(self) -> list[int]:
        x, y, width, height = map(int, rle.bbox(checked_mask(self.polygons, *self.size)))
        return [x, y, width, height]


def png(mask: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8)).save(out, "PNG")  # 0 and 1, as LabelMe's are
    return out.getvalue()


def cut(item: Item) -> np.ndarray:
    """The part of a mask that is in its box."""
    x, y, width, height = item.box
    return item.mask[y : y + height, x : x + width]


def brush(mask: np.ndarray) -> list[int]:
    """Label Studio's run lengths of a mask, written as its SDK (`converter.brush.mask2rle`) writes them."""
    values = np.repeat(mask.ravel() * 255, 4)
    bits = [f"{len(values):032b}", f"{7:05b}", *(f"{size - 1:04b}" for size in (3, 4, 8, 16))]
    ends = [*(np.flatnonzero(values[1:] != values[:-1]) + 1).tolist(), len(values)]
    begin = 0
    for end in ends:
        while begin < end:
            length = min(end - begin, 2**16)
            choice, size = next((c, s) for c, s in enumerate((3, 4, 8, 16)) if length <= 2**s)
            bits.append(f"1{choice:02b}{length - 1:0{size}b}{values[begin]:08b}")
            begin += length
    text = "".join(bits)
    text += "0" * (-len(text) % 8)
    return [int(text[place : place + 8], 2) for place in range(0, len(text), 8)]


def write_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("\n".join(map(json.dumps, rows)) + "\n")
    return path


def write_csv(path: Path, rows: list[dict[str, Any]], delimiter: str, end: str, mark: bytes) -> Path:
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, [*rows[0]], delimiter=delimiter, lineterminator=end)
    writer.writeheader()
    writer.writerows(rows)
    path.write_bytes(mark + out.getvalue().encode())
    return path


def json_lines(folder: Path, items: list[Item]) -> Path:
    return write_lines(folder / "a.jsonl", [item.row | {"polygons": item.polygons} for item in items])


def json_lines_uncompressed(folder: Path, items: list[Item]) -> Path:
    return write_lines(folder / "a.jsonl", [item.row | {"rle": item.uncompressed} for item in items])


def json_lines_several(folder: Path, items: list[Item]) -> Path:
    """Every target twice: as polygons, and as run lengths."""
    both = [item.row | {"polygons": item.polygons, "rle": [item.compressed]} for item in items]
    return write_lines(folder / "a.jsonl", both)


def json_array(folder: Path, items: list[Item]) -> Path:
    path = folder / "a.json"
    path.write_text(json.dumps([item.row | {"rle": item.compressed} for item in items], indent=1))
    return path


def json_object(folder: Path, items: list[Item]) -> Path:
    path = folder / "a.txt"
    path.write_text(json.dumps({"about": "", "things": [item.row | {"polygons": item.polygons} for item in items]}))
    return path


def csv_of_excel(folder: Path, items: list[Item]) -> Path:
    rows = [item.row | {"polygons": json.dumps(item.polygons)} for item in items]
    return write_csv(folder / "a.csv", rows, ";", "\r\n", b"\xef\xbb\xbf")


def tsv_with_masks(folder: Path, items: list[Item]) -> Path:
    (folder / "masks").mkdir()
    for number, item in enumerate(items):
        (folder / f"masks/{number}.png").write_bytes(png(item.mask))
    rows = [item.row | {"mask": f"masks/{number}.png"} for number, item in enumerate(items)]
    return write_csv(folder / "a.tsv", rows, "\t", "\n", b"")


def box_and_png(folder: Path, items: list[Item]) -> Path:
    rows = []
    for number, item in enumerate(items):
        (folder / f"{number}.png").write_bytes(png(cut(item)))
        rows.append(item.row | {"box": item.box, "mask": f"{number}.png"})
    return write_lines(folder / "a.jsonl", rows)


def label_studio(folder: Path, items: list[Item]) -> Path:
    """As the server exports it as JSON, where the sentences were imported with the tasks."""
    tasks = []
    for number, item in enumerate(items, start=1):
        region = {
            "original_width": item.size[1],
            "original_height": item.size[0],
            "image_rotation": 0,
            "value": {"format": "rle", "rle": brush(item.mask), "brushlabels": [item.category]},
            "id": f"r{number}",
            "from_name": "tag",
            "to_name": "image",
            "type": "brushlabels",
            "origin": "manual",
        }
        annotation = {
            "id": number,
            "completed_by": 1,
            "result": [region],
            "was_cancelled": False,
            "ground_truth": False,
        }
        data = item.names | {"image": f"/data/upload/1/0123abcd-{item.image}", "text": item.text}
        tasks.append({"id": number, "annotations": [annotation], "data": data, "predictions": [], "project": 1})
    path = folder / "project-1.json"
    path.write_text(json.dumps(tasks))
    return path


def coco(items: list[Item], fields: Callable[[Item], dict[str, Any]]) -> dict[str, Any]:
    images = {item.image: item.size for item in items}
    numbers = {name: number for number, name in enumerate(images)}
    categories = list(dict.fromkeys(item.category for item in items))
    annotations = [
        {
            "id": number,
            "image_id": numbers[item.image],
            "category_id": categories.index(item.category),
            "segmentation": item.polygons,
            "bbox": item.box,
            "area": float(item.mask.sum()),
            "iscrowd": 0,
            **fields(item),
        }
        for number, item in enumerate(items)
    ]
    return {
        "info": {},
        "licenses": [{"name": "", "id": 0, "url": ""}],
        "categories": [{"id": n, "name": name, "supercategory": ""} for n, name in enumerate(categories)],
        "images": [
            {"id": numbers[name], "file_name": name, "height": height, "width": width, "license": 0}
            for name, (height, width) in images.items()
        ],
        "annotations": annotations,
    }


def cvat(folder: Path, items: list[Item]) -> Path:
    """COCO 1.0 of CVAT, where the label has text attributes."""
    common = {"occluded": False, "rotation": 0.0}
    path = folder / "instances_default.json"
    path.write_text(json.dumps(coco(items, lambda i: {"attributes": common | i.names | {"expression": i.text}})))
    return path


def roboflow(folder: Path, items: list[Item]) -> Path:
    """A folder a split, each with a file of its own."""
    for split, name in (("train", "train"), ("val", "valid"), ("test", "test")):
        own = [item for item in items if item.split == split]
        (folder / name).mkdir()
        page = coco(own, lambda i: {"caption": i.text, "expr_id": i.expr_id, "ref_id": i.ref_id})
        (folder / name / "_annotations.coco.json").write_text(json.dumps(page))
        (folder / name / "README.dataset.txt").write_text("Exported")
    return folder


def labelme(folder: Path, items: list[Item], masks: bool = False) -> Path:
    """A file a photo, with the sentence as the shape's description."""
    for image in dict.fromkeys(item.image for item in items):
        own = [item for item in items if item.image == image]
        shapes = []
        for item in own:
            left, top, width, height = item.box
            common = {"label": item.category, "description": item.text, "flags": {}, **item.names}
            pieces = [(points, None) for points in item.polygons]
            if masks:
                inside = base64.b64encode(png(cut(item))).decode()
                pieces = [([left, top, left + width - 1, top + height - 1], inside)]
            for points, mask in pieces:
                shapes.append(
                    {
                        **common,
                        "points": np.reshape(points, (-1, 2)).tolist(),
                        "group_id": int(item.expr_id) if len(pieces) > 1 else None,
                        "shape_type": "mask" if mask else "polygon",
                        "mask": mask,
                    }
                )
        height, width = own[0].size
        page = {"version": "5.6.0", "flags": {}, "shapes": shapes, "imagePath": image, "imageData": None}
        path = folder / f"{Path(image).stem}.json"
        path.write_text(json.dumps(page | {"imageHeight": height, "imageWidth": width}))
    return folder


def labelme_masks(folder: Path, items: list[Item]) -> Path:
    return labelme(folder, items, masks=True)


def with_instances(folder: Path, items: list[Item]) -> tuple[Path, Path]:
    """Ids of annotations, and the file that they are of."""
    instances = folder / "instances.json"
    instances.write_text(json.dumps(coco(items, lambda i: {})))
    rows = [item.row | {"ann_ids": [number]} for number, item in enumerate(items)]
    return write_lines(folder / "a.jsonl", rows), instances


WRITERS: dict[str, Callable[[Path, list[Item]], Path]] = {
    writer.__name__: writer
    for writer in (
        json_lines,
        json_lines_uncompressed,
        json_lines_several,
        json_array,
        json_object,
        csv_of_excel,
        tsv_with_masks,
        box_and_png,
        label_studio,
        cvat,
        roboflow,
        labelme,
        labelme_masks,
    )
}
