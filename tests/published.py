"""A tiny data set in the layout of the REFER API, written as real files, which a test then damages as it likes."""

import io
import json
import pickle
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 30, 40


def jpeg(height: int = HEIGHT, width: int = WIDTH, seed: int = 0, kind: str = "JPEG", **options: Any) -> bytes:
    """A noisy photo, so that half of its file is really half of its picture."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind, **options)
    return out.getvalue()


def box(x: int, y: int, width: int, height: int) -> list[list[int]]:
    """A COCO polygon that covers exactly these pixels."""
    return [[x, y, x + width, y, x + width, y + height, x, y + height]]


@dataclass
class Published:
    """Four photos with two annotations each; a ref with two sentences on the first annotation of each.

    Change `refs`, `instances` and `photos` before `write`.
    """

    root: Path
    dataset: str = "refcoco"
    split_by: str = "unc"
    splits: tuple[str, ...] = ("train", "val", "testA", "testB")
    refs: list[dict[str, Any]] = field(default_factory=list)
    instances: dict[str, Any] = field(default_factory=dict)
    photos: dict[str, bytes] = field(default_factory=dict)
    protocol: int = 2

    def __post_init__(self) -> None:
        self.instances = {
            "info": {},
            "images": [],
            "annotations": [],
            "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        }
        for number, split in enumerate(self.splits, start=1):
            name = f"COCO_train2014_{number:012d}.jpg"
            self.photos[name] = jpeg(seed=number)
            self.instances["images"].append({"id": number, "file_name": name, "height": HEIGHT, "width": WIDTH})
            for place, category in enumerate((1, 2)):
                left, top = 3 + 12 * place, 2 + 2 * place
                self.instances["annotations"].append(
                    {
                        "id": 10 * number + place,
                        "image_id": number,
                        "category_id": category,
                        "bbox": [left, top, 6, 5],
                        "area": 30.0,
                        "iscrowd": 0,
                        "segmentation": box(left, top, 6, 5),
                    }
                )
            sentences = [
                {"sent_id": 100 * number + s, "sent": text, "raw": text.upper(), "tokens": text.split()}
                for s, text in enumerate(("the left cat", "cat"))
            ]
            self.refs.append(
                {
                    "ref_id": 1000 + number,
                    "ann_id": 10 * number,
                    "image_id": number,
                    "category_id": 1,
                    "split": split,
                    "file_name": name,
                    "sentences": sentences,
                    "sent_ids": [s["sent_id"] for s in sentences],
                }
            )

    @property
    def refs_file(self) -> Path:
        name = f"grefs({self.split_by}).json" if self.dataset == "grefcoco" else f"refs({self.split_by}).p"
        return self.root / self.dataset / name

    @property
    def images_folder(self) -> Path:
        return self.root / "images" / "train2014"

    def write(self) -> "Published":
        self.images_folder.mkdir(parents=True, exist_ok=True)
        for name, data in self.photos.items():
            (self.images_folder / name).write_bytes(data)
        self.refs_file.parent.mkdir(parents=True, exist_ok=True)
        as_json = self.refs_file.suffix == ".json"
        self.refs_file.write_bytes(
            json.dumps(self.refs).encode() if as_json else pickle.dumps(self.refs, protocol=self.protocol)
        )
        (self.root / self.dataset / "instances.json").write_text(json.dumps(self.instances))
        return self
