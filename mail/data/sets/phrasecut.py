"""PhraseCut (Wu et al. 2020, arXiv 2008.01187): phrases that name one or several regions of a Visual Genome photo.

    ROOT/refer_train.json               a list of tasks; refer_val.json, refer_test.json, refer_miniv.json alike
    ROOT/image_data_split.json          size and `coco_id` of every photo (also image_data_split3000.json, or Visual
                                        Genome's own image_data.json)
    ROOT/images/2328797.jpg             or ROOT/images/VG_100K and VG_100K_2, as Visual Genome's archives unpack

The files may also be in ROOT/VGPhraseCut_v0 or ROOT/phrasecut. A photo that is COCO's too has COCO's id here, `coco/9`,
so that the leak firewall knows it: evaluation photos of RefCOCO may be among those that PhraseCut trains on. Visual
Genome's file of it may be another than COCO's; `prepare mix` keeps one of them.

The target of a phrase is drawn as its authors' evaluation draws it: all polygons of all instances, by Pillow, on whole
pixels, outline included. The published sizes of splits are those of their README; its `val` counts the 100 photos of
`miniv`, which are in a file of their own (3,000 were drawn for both, and 2,971 have phrases), and so has less here.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from mail import rle
from mail.data.ingest import Findings, Referent, SourceImage, ingest, source_record
from mail.data.json_arrays import JsonArrays
from mail.data.photos import PhotoFolder
from mail.data.problems import Problems
from mail.data.refer import find_image_folder
from mail.data.sets import remote
from mail.data.sets.definition import Counts, DataSet
from mail.data.store import DataStore
from mail.data.store_writer import DataStoreWriter
from mail.data.typed import given, json_value, number, shown, text, whole_number
from mail.errors import UserError

NAME = "phrasecut"
SPLITS = ("train", "val", "test", "miniv")
FOLDERS = ("", "VGPhraseCut_v0", "phrasecut")
IMAGE_DATA = ("image_data_split.json", "image_data_split3000.json", "image_data.json")
IMAGE_FOLDERS = ("images", "VGPhraseCut_v0/images", "phrasecut/images")
PHOTOS = ("{}.jpg", "VG_100K/{}.jpg", "VG_100K_2/{}.jpg")


@dataclass(frozen=True, slots=True)
class Photo:
    """A photo as Visual Genome describes it."""

    id: int
    height: int
    width: int
    coco_id: int | None

    @property
    def image_id(self) -> str:
        """By which everybody here knows it."""
        return f"visual-genome/{self.id}" if self.coco_id is None else f"coco/{self.coco_id}"


@dataclass(frozen=True, slots=True)
class Task:
    """A phrase; the polygons of what it names are read from its file, where it has `length` bytes at `place`."""

    id: str
    image_id: int
    split: str
    ann_ids: list[int]
    phrase: str
    category: str
    place: int
    length: int


@dataclass(frozen=True)
class PhraseCutAnnotations:
    """Tasks by photo, of the splits that there are files of; see `definition.Annotations`."""

    tasks: dict[int, list[Task]]
    photos: dict[int, Photo]
    split_files: dict[str, Path]
    image_data: Path
    images: Path
    name: str = NAME

    @property
    def files(self) -> Sequence[Path]:
        return [*self.split_files.values(), self.image_data]

    def count(self) -> dict[str, dict[str, int]]:
        numbers = {}
        for split in self.split_files:
            found = [sum(task.split == split for task in tasks) for tasks in self.tasks.values()]
            numbers[split] = {"refs": sum(found), "expressions": sum(found), "images": sum(map(bool, found))}
        return numbers

    def remarks(self) -> Iterator[str]:
        shared = sum(image in self.photos and self.photos[image].coco_id is not None for image in self.tasks)
        yield f"{shared} of {len(self.tasks)} photos are COCO's, and have their ids there"

    @property
    def write_store(self) -> Callable[..., tuple[DataStore, Findings]]:
        return partial(write_store, self)


def read(root: Path, split_by: str, images: Path | None) -> PhraseCutAnnotations:
    """The tasks of every split that there is a file of, and what is known of the photos."""
    folder = next((f for name in FOLDERS if (f := root / name).is_dir() and any(f.glob("refer_*.json"))), None)
    found = {s: f for s in SPLITS if folder and (f := folder / f"refer_{s}.json").is_file()}
    if folder is None or not found:
        raise UserError(f"there is no refer_train.json, refer_val.json, refer_test.json or refer_miniv.json in {root}")
    image_data = next((f for name in IMAGE_DATA if (f := folder / name).is_file()), None)
    if image_data is None:
        raise UserError(f"there is no {' or '.join(IMAGE_DATA)} in {folder}: it says which photos are COCO's")
    photos = find_image_folder(root, images, IMAGE_FOLDERS)
    tasks: dict[int, list[Task]] = {}
    for split, file in found.items():
        for task in _tasks(file, split):
            tasks.setdefault(task.image_id, []).append(task)
    return PhraseCutAnnotations(tasks, _photos(image_data, tasks), found, image_data, photos)


def _tasks(file: Path, split: str) -> Iterator[Task]:
    with file.open("rb") as stream:
        try:
            seen = None
            for seen, place, value, start, length in JsonArrays(stream):
                if seen == "" and place >= 0:
                    yield _task(value, split, start, length, place)
            if seen != "":
                raise ValueError("it is an object, not a list of tasks")
        except ValueError as error:
            raise UserError(f"{file} is not PhraseCut's: {error}") from None


def _task(value: Any, split: str, start: int, length: int, place: int) -> Task:
    try:
        if not isinstance(value, dict):
            raise ValueError(f"it is no object but {shown(value)}")
        structure, ann_ids = value.get("phrase_structure"), value.get("ann_ids") or []
        if not isinstance(ann_ids, list):
            raise ValueError(f"ann_ids must be a list, not {shown(ann_ids)}")
        name = structure.get("name") if isinstance(structure, dict) else None
        return Task(
            text(given(value, "task_id"), "task_id"),
            whole_number(given(value, "image_id"), "image_id"),
            split,
            [whole_number(a, "an id of ann_ids") for a in ann_ids],
            text(given(value, "phrase"), "phrase"),
            "" if name is None else text(name, "name"),
            start,
            length,
        )
    except ValueError as error:
        raise ValueError(f"task {place}: {error}") from None


def _photos(file: Path, tasks: dict[int, list[Task]]) -> dict[int, Photo]:
    """What is known of the photos that have tasks."""
    photos: dict[int, Photo] = {}
    try:
        listed = json_value(file.read_bytes())
        if not isinstance(listed, list) or not all(isinstance(entry, dict) for entry in listed):
            raise ValueError("it is no list of photos")
        for entry in listed:
            image, height, width = (whole_number(given(entry, k), k) for k in ("image_id", "height", "width"))
            coco_id = entry.get("coco_id")
            if image in tasks:
                photos[image] = Photo(
                    image, height, width, None if coco_id is None else whole_number(coco_id, "coco_id")
                )
    except ValueError as error:
        raise UserError(f"{file} does not describe Visual Genome's photos: {error}") from None
    return photos


def write_store(annotations: PhraseCutAnnotations, out: str, **options: Any) -> tuple[DataStore, Findings]:
    """Writes the phrases and their photos as a data store.

    Args:
        options: of `ingest.ingest`.

    Raises:
        UserError: one line with the first few names and the total of everything that is wrong.
    """
    writer, problems = DataStoreWriter(out, NAME), Problems()
    folder = PhotoFolder(str(annotations.images), annotations.files[0])
    usable: dict[str, tuple[Photo, Path]] = {}
    for image in annotations.tasks:
        photo = annotations.photos.get(image)
        name = next((name for form in PHOTOS if folder.has(name := form.format(image))), None)
        if photo is None:
            problems.add(f"photos are not in {annotations.image_data.name}", image)
        elif name is None:
            problems.add(f"images are missing in {folder.where}", f"{image}.jpg")
        elif photo.image_id in usable:
            problems.add("photos have the coco_id of another", f"{image}: {photo.coco_id}")
        else:
            usable[photo.image_id] = photo, Path(folder.path(name))
    for task in (task for tasks in annotations.tasks.values() for task in tasks if not task.phrase.strip()):
        problems.add("expressions are empty", f"{NAME}/{task.id}")
    return ingest(
        _source_images(annotations, dict(sorted(usable.items())), problems),
        writer,
        where=annotations.files[0],
        photos=[path for _, path in usable.values()],
        problems=problems,
        sources=[source_record(f"{NAME}/{file.name}", file) for file in annotations.files],
        **options,
    )


def _source_images(
    annotations: PhraseCutAnnotations, usable: dict[str, tuple[Photo, Path]], problems: Problems
) -> Iterator[SourceImage]:
    with ExitStack() as stack:
        files = {split: stack.enter_context(file.open("rb")) for split, file in annotations.split_files.items()}
        for image_id, (photo, path) in usable.items():
            referents = []
            for task in annotations.tasks[photo.id]:
                name = f"{NAME}/{task.id}"
                files[task.split].seek(task.place)
                try:
                    polygons = json_value(files[task.split].read(task.length)).get("Polygons")
                    target = rle.encode(drawn(polygons, photo.height, photo.width))
                except ValueError as error:
                    problems.add("referents have an unusable mask", f"{name}: {error}")
                    continue
                if task.phrase.strip():
                    said = [(name, task.phrase)]
                    referents.append(Referent(name, task.split, said, [], task.ann_ids, task.category, target=target))
            yield SourceImage(image_id, path, (photo.height, photo.width), referents)


def drawn(instances: Any, height: int, width: int) -> np.ndarray:
    """The mask of PhraseCut's `Polygons`: of every instance a list of polygons, each a list of points [x, y].

    Returns:
        bool (H, W).

    Raises:
        ValueError: it is something else, or a point lies far outside of the photo.
    """
    try:
        polygons = [[(number(x, "x"), number(y, "y")) for x, y in polygon] for own in instances for polygon in own]
    except TypeError:
        raise ValueError("Polygons must be a list of instances, each a list of polygons [[x, y], ...]") from None
    if not any(len(polygon) > 1 for polygon in polygons):
        raise ValueError("it has no polygon")
    canvas, far = Image.new("L", (width, height)), max(height, width)
    for polygon in polygons:
        if any(not -far <= value <= 2 * far for point in polygon for value in point):
            raise ValueError(f"a polygon lies far outside the image of {height} x {width} pixels")
        if len(polygon) > 1:
            ImageDraw.Draw(canvas).polygon([(int(x), int(y)) for x, y in polygon], fill=1, outline=1)
    return np.asarray(canvas) > 0


PHRASECUT = DataSet(
    name=NAME,
    about="PhraseCut (Wu et al., 2020): phrases for one or several things, photos of Visual Genome.",
    published={
        "": {
            "train": Counts(310816, 310816, 71746),
            "val": Counts(20316 - 821, 20316 - 821, 2971 - 100),
            "test": Counts(14354, 14354, 2545),
            "miniv": Counts(821, 821, 100),
        }
    },
    read=read,
    remote=(*remote.PHRASECUT, *remote.VISUAL_GENOME),
    licence="Visual Genome's annotations are CC BY 4.0; its photos are of YFCC100M and COCO and keep their licences",
)
