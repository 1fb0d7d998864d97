"""Writes scenes in the layout in which RefCOCO is published, so that the same reader takes both.

    ROOT/synthetic/refs(synthetic).p      references, each with its sentences; grefs(synthetic).json, as gRefCOCO has
                                          them, where they name several objects or none (`refs_files`)
    ROOT/synthetic/instances.json         COCO: images, annotations (visible parts, compressed RLE), categories
    ROOT/images/train2014/*.jpg

Scene by scene, nothing but the two files' buffers is kept; the same seed gives the same bytes, on however many cores.
"""

import json
import os
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future
from contextlib import closing
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mail import rle
from mail.data.filling import naming
from mail.data.processes import processes
from mail.data.scenes.domains import DOMAINS
from mail.data.scenes.meaning import SceneObject
from mail.data.scenes.refs_files import GREFS, REFS, Named, RefsForm, sentence
from mail.data.scenes.scene import Scene, SceneConfig, generate_scene
from mail.errors import UserError

CATEGORY_IDS = {kind: n for n, kind in enumerate([k for d in DOMAINS.values() for k in d.kinds], start=1)}
_BEGIN = '{"info": '
_DESCRIPTION = "Generated scenes with referring expressions"
SCENES_A_PROCESS = 100  # the least that a process is started for: to start takes as long as some 20 large scenes
SCENES_A_TASK = 8


def write_published_layout(
    root: str | Path,
    images: int,
    seed: int,
    config: SceneConfig | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Writes `images` scenes of data set `seed` under `root`.

    More than a few are drawn in a process a core, so a script calls this below `if __name__ == "__main__"`.
    `progress` is called with (scenes written, scenes in all) after each scene.

    Raises:
        UserError: `images` is not positive, or the folder holds scenes of another seed or look.
    """
    if images < 1:
        raise UserError(f"scenes: {images} images asked for; at least 1 is needed (12 for every split to occur)")
    config = config or SceneConfig()
    photos, annotations = Path(root) / "images" / "train2014", Path(root) / "synthetic"
    photos.mkdir(parents=True, exist_ok=True)
    annotations.mkdir(parents=True, exist_ok=True)
    form = _form(config)
    instances, refs = annotations / "instances.json", annotations / refs_name(config)
    info = {
        "description": _DESCRIPTION,
        "version": "1",
        "seed": seed,
        "scenes": json.loads(json.dumps(config.record())),
    }
    _check_same(instances, info)
    entries: list[str] = []  # of images; their part of the file comes after the annotations
    annotation_ids, ref_ids, sentence_ids = count(1), count(1), count(1)
    with (
        naming(root),
        open(f"{instances}.partial", "w", encoding="utf-8") as text,
        open(f"{refs}.partial", "wb") as said,
        closing(_drawn(seed, images, config, photos)) as scenes,
    ):
        kinds = DOMAINS[config.domain].kinds
        categories = [{"supercategory": "shape", "id": CATEGORY_IDS[kind], "name": kind} for kind in kinds]
        text.write(f'{_BEGIN}{json.dumps(info)}, "licenses": [], "categories": {json.dumps(categories)}')
        text.write(', "annotations": [')
        said.write(form.begin)
        for image_id, scene in enumerate(scenes, start=1):
            name, (height, width) = _name(scene), scene.size
            image = {"id": image_id, "file_name": f"{name}.jpg", "height": height, "width": width, "license": 0}
            entries.append(json.dumps(image))
            annotations_of = [_annotation(next(annotation_ids), image_id, item) for item in scene.objects]
            for annotation in annotations_of:
                text.write((",\n" if annotation["id"] > 1 else "\n") + json.dumps(annotation))
            for reference in scene.references:
                named = Named(
                    ref_id=next(ref_ids),
                    image_id=image_id,
                    photo=name,
                    split=scene.split,
                    annotations=[annotations_of[target] for target in reference.targets],
                    sentences=[sentence(next(sentence_ids), each.text) for each in reference.sentences],
                )
                said.write((form.between if named.ref_id > 1 else b"") + form.encode(named))
            if progress is not None:
                progress(image_id, images)
        text.write('\n], "images": [\n' + ",\n".join(entries) + "\n]}\n")
        said.write(form.end)
    Path(f"{instances}.partial").replace(instances)
    Path(f"{refs}.partial").replace(refs)


def refs_name(config: SceneConfig) -> str:
    """Name of the file of references of such scenes."""
    return _form(config).name.format("synthetic")


def _form(config: SceneConfig) -> RefsForm:
    return REFS if config.targets == "one" else GREFS


def _name(scene: Scene) -> str:
    return f"synthetic_{scene.index + 1:012d}"


def _drawn(seed: int, images: int, config: SceneConfig, photos: Path) -> Generator[Scene, None, None]:
    """Scenes without their pixels, in order, whose photos are written; a few tasks ahead of whoever asks for them."""
    tasks = [(seed, range(n, min(n + SCENES_A_TASK, images)), config, photos) for n in range(0, images, SCENES_A_TASK)]
    workers = min(os.cpu_count() or 1, images // SCENES_A_PROCESS)
    if workers < 2:
        for task in tasks:
            yield from _draw(*task)
        return
    ahead: deque[Future[list[Scene]]] = deque()
    with processes(workers) as pool:
        for task in tasks:
            ahead.append(pool.submit(_draw, *task))
            if len(ahead) > 2 * workers:
                yield from ahead.popleft().result()
        while ahead:
            yield from ahead.popleft().result()


def _draw(seed: int, indices: range, config: SceneConfig, photos: Path) -> list[Scene]:
    scenes = []
    for index in indices:
        scene = generate_scene(seed, index, config)
        Image.fromarray(scene.image).save(photos / f"{_name(scene)}.jpg", quality=config.jpeg_quality)
        scenes.append(replace(scene, image=np.empty((*scene.size, 0), np.uint8)))
    return scenes


def _check_same(instances: Path, info: dict[str, Any]) -> None:
    """Raises UserError where another layout is: its photos would become these, and its store's would be gone."""
    for path in (instances, Path(f"{instances}.partial")):
        try:
            with open(path, encoding="utf-8") as file:
                found, _ = json.JSONDecoder().raw_decode(file.read(4096).removeprefix(_BEGIN))
        except (FileNotFoundError, ValueError):  # half of a line, from a disk that was full
            continue
        if other := [key for key, value in dict(found).items() if info.get(key) != value]:
            raise UserError(
                f"{path} is of scenes with another {', '.join(other)}: choose another --root, or delete that one"
            )


def _annotation(number: int, image_id: int, item: SceneObject) -> dict[str, Any]:
    return {
        "id": number,
        "image_id": image_id,
        "category_id": CATEGORY_IDS[item.kind],
        "segmentation": rle.to_json(item.mask),
        "area": item.area,
        "bbox": list(item.box),
        "iscrowd": 0,
    }
