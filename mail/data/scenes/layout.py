"""Writes scenes in the layout in which RefCOCO is published, so that the same reader takes both.

    ROOT/synthetic/refs(synthetic).p      pickled list of references (protocol 2), each with its sentences
    ROOT/synthetic/instances.json         COCO: images, annotations (visible parts, compressed RLE), categories
    ROOT/images/train2014/*.jpg

Scene by scene, nothing but the two files' buffers is kept; the same seed gives the same bytes.
"""

import io
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from mail.data.scenes.scene import Scene, SceneConfig, generate_scene
from mail.data.scenes.shapes import KINDS
from mail.errors import UserError

CATEGORY_IDS = {kind: number for number, kind in enumerate(KINDS, start=1)}
_DESCRIPTION = "Generated scenes with referring expressions"


def write_published_layout(
    root: str | Path,
    images: int,
    seed: int,
    config: SceneConfig | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Writes `images` scenes of data set `seed` under `root`.

    `progress` is called with (scenes written, scenes in all) after each scene.

    Raises:
        UserError: `images` is not positive.
    """
    if images < 1:
        raise UserError(f"scenes: {images} images asked for; at least 1 is needed (12 for every split to occur)")
    config = config or SceneConfig()
    photos, annotations = Path(root) / "images" / "train2014", Path(root) / "synthetic"
    photos.mkdir(parents=True, exist_ok=True)
    annotations.mkdir(parents=True, exist_ok=True)
    instances, refs = annotations / "instances.json", annotations / "refs(synthetic).p"
    writer = _Writer(photos, config)
    with open(f"{instances}.partial", "w", encoding="utf-8") as text, open(f"{refs}.partial", "wb") as pickled:
        writer.begin(text, pickled, seed)
        for index in range(images):
            writer.add(generate_scene(seed, index, config))
            if progress is not None:
                progress(index + 1, images)
        writer.end()
    Path(f"{instances}.partial").replace(instances)
    Path(f"{refs}.partial").replace(refs)


class _Writer:
    def __init__(self, photos: Path, config: SceneConfig) -> None:
        self._photos, self._config = photos, config
        self._images: list[str] = []  # their part of the file comes after the annotations
        self._annotation = self._ref = self._sentence = 0

    def begin(self, text: io.TextIOBase, pickled: io.BufferedIOBase, seed: int) -> None:
        self._text, self._pickled = text, pickled
        info = {"description": _DESCRIPTION, "version": "1", "seed": seed}
        categories = [{"supercategory": "shape", "id": number, "name": kind} for kind, number in CATEGORY_IDS.items()]
        text.write(f'{{"info": {json.dumps(info)}, "licenses": [], "categories": {json.dumps(categories)}')
        text.write(', "annotations": [')
        pickled.write(b"\x80\x02]")  # protocol 2, empty list; each reference then is pushed and appended

    def end(self) -> None:
        self._text.write('\n], "images": [\n' + ",\n".join(self._images) + "\n]}\n")
        self._pickled.write(b".")

    def add(self, scene: Scene) -> None:
        image_id = scene.index + 1
        name = f"synthetic_{image_id:012d}"
        height, width = scene.size
        quality = self._config.jpeg_quality
        Image.fromarray(scene.image).save(self._photos / f"{name}.jpg", quality=quality)
        image = {"id": image_id, "file_name": f"{name}.jpg", "height": height, "width": width, "license": 0}
        self._images.append(json.dumps(image))
        first = self._annotation + 1
        for item in scene.objects:
            self._annotation += 1
            annotation = {
                "id": self._annotation,
                "image_id": image_id,
                "category_id": CATEGORY_IDS[item.kind],
                "segmentation": {"size": [height, width], "counts": item.mask["counts"].decode("ascii")},
                "area": item.area,
                "bbox": list(item.box),
                "iscrowd": 0,
            }
            self._text.write((",\n" if self._annotation > 1 else "\n") + json.dumps(annotation))
        for reference in scene.references:
            self._ref += 1
            sentences = []
            for sentence in reference.sentences:
                self._sentence += 1
                text = sentence.text
                sentences.append({"tokens": text.split(), "raw": text, "sent_id": self._sentence, "sent": text})
            self._append(
                {
                    "sent_ids": [sentence["sent_id"] for sentence in sentences],
                    "file_name": f"{name}_{first + reference.target}.jpg",
                    "ann_id": first + reference.target,
                    "ref_id": self._ref,
                    "image_id": image_id,
                    "split": scene.split,
                    "sentences": sentences,
                    "category_id": CATEGORY_IDS[scene.objects[reference.target].kind],
                }
            )

    def _append(self, ref: dict[str, Any]) -> None:
        body = io.BytesIO()
        pickler = pickle.Pickler(body, protocol=2)
        pickler.fast = True  # without a memo the bytes depend on the values alone, not on which strings are one object
        pickler.dump(ref)
        self._pickled.write(body.getvalue()[2:-1] + b"a")  # less the protocol and the stop mark; then APPEND
