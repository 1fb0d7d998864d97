"""Reads the layout in which RefCOCO, RefCOCO+, RefCOCOg, gRefCOCO and RefCLEF are published (the REFER API's).

    ROOT/refcoco/refs(unc).p            references: Python 2 or 3 pickle, read by `restricted_pickle`
    ROOT/grefcoco/grefs(unc).json       the same as JSON, where `ann_id` is a list, or [-1] for no target
    ROOT/refcoco/instances.json         COCO's annotations of these images
    ROOT/images/train2014/*.jpg         or ROOT/images/mscoco/images/train2014, as the REFER tool has it

The text of an expression is the published `sent`, which is what everybody who uses the REFER API trains and reports on,
not `raw`, the annotator's spelling before it was cleaned. The target is the union of the referent's annotations.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from mail import addresses
from mail.data import restricted_pickle
from mail.data.coco import CocoInstances
from mail.data.coco_masks import CocoMasks
from mail.data.ingest import Findings, Progress, Referent, SourceImage, ingest, source_record
from mail.data.orientation import AS_SHOWN, ExifAnnotated
from mail.data.photos import find_photos
from mail.data.problems import Problems
from mail.data.schema import PUBLISHED_SPLITS, SPLITS
from mail.data.store import DataStore
from mail.data.store_writer import DataStoreWriter
from mail.data.typed import flag, given, json_value, text, whole_number
from mail.errors import UserError

IMAGE_FOLDERS = ("images/train2014", "images/mscoco/images/train2014", "train2014")


@dataclass(frozen=True, kw_only=True)
class ReferLayout:
    """Where the files of one data set are, and what its ids begin with."""

    name: str
    """The store's name and the beginning of its expression ids: "refcoco-unc"."""
    dataset: str
    split_by: str
    refs: Path
    instances: Path
    images: Path
    namespace: str = "coco"
    """Image ids are `namespace/number`: data sets made from the same photos share them, and their masks."""
    annotation_id: Callable[[Any, str], int] = whole_number
    """The number that an annotation's id stands for."""
    sources: tuple[Path, ...] = ()
    """Files that `refs` and `instances` were made from, if they are not the published ones."""


@dataclass(slots=True)
class Ref:
    """One reference as published: an object (or several, or none) of an image, and what people said to name it."""

    ref_id: int
    image_id: int
    split: str
    ann_ids: list[int]
    sentences: list[tuple[int, str]]  # (sent_id, text)

    @property
    def no_target(self) -> bool:
        return not self.ann_ids


def find_layout(
    root: str | Path,
    dataset: str,
    split_by: str,
    images: str | Path | None = None,
    *,
    name: str = "",
    namespace: str = "coco",
    image_folders: Sequence[str] = IMAGE_FOLDERS,
    annotation_id: Callable[[Any, str], int] = whole_number,
    refs_name: str = "",
) -> ReferLayout:
    """Finds the files of a data set under `root`; `images` overrides where photos are looked for, names what is usual.

    Raises:
        UserError: says which file or folder is not there, and what is there instead.
    """
    root = addresses.local_path(root)
    if not root.is_dir():
        raise UserError(f"there is no folder {root}: --root is the folder that holds {dataset}/ and images/")
    folder = root / dataset
    if not folder.is_dir():
        found = ", ".join(sorted(p.name for p in root.iterdir() if p.is_dir())) or "no folders"
        raise UserError(f"there is no folder {folder}: {root} has {found}")
    refs = folder / (refs_name or (f"grefs({split_by}).json" if dataset.startswith("gref") else f"refs({split_by}).p"))
    if not refs.is_file():
        found = ", ".join(sorted(p.name for p in folder.glob("*refs(*"))) or "no refs at all"
        raise UserError(f"there is no file {refs}: {folder} has {found}; choose another --split-by or download it")
    instances = folder / "instances.json"
    if not instances.is_file():
        raise UserError(f"there is no file {instances}: it comes in the same archive as {refs.name}")
    photos = find_image_folder(root, images, image_folders)
    return ReferLayout(
        name=name or f"{dataset}-{split_by}",
        dataset=dataset,
        split_by=split_by,
        refs=refs,
        instances=instances,
        images=photos,
        namespace=namespace,
        annotation_id=annotation_id,
    )


def find_image_folder(root: Path, images: str | Path | None, image_folders: Sequence[str] = IMAGE_FOLDERS) -> Path:
    """The folder of the photos: `images` if it is given, else one of those under `root`; UserError if there is none."""
    candidates = [addresses.local_path(images)] if images else [root / name for name in image_folders]
    photos = next((path for path in candidates if path.is_dir()), None)
    if photos is None:
        raise UserError(
            f"there is no folder {' or '.join(map(str, candidates))}: unpack the photos there, or name their folder "
            "with --images"
        )
    return photos


def read_refs(path: str | Path, annotation_id: Callable[[Any, str], int] = whole_number) -> list[Ref]:
    """All references of a `refs(*.p)` or `grefs(*.json)` file.

    Raises:
        UserError: the file cannot be read, is not made of references, or has expressions in a split of unknown name.
    """
    path = addresses.local_path(path)
    if path.suffix == ".json":
        try:
            content = json_value(path.read_bytes())
        except (OSError, ValueError) as error:
            raise UserError(f"{path} is not readable JSON: {error}") from None
    else:
        content = restricted_pickle.load(path)
    if not isinstance(content, list):
        raise UserError(f"{path} is not a list of references but a {type(content).__name__}")
    refs = []
    for number, entry in enumerate(content):
        try:
            refs.append(_ref(entry, annotation_id))
        except ValueError as error:
            which = f"ref {entry['ref_id']!r:.40}: " if isinstance(entry, dict) and "ref_id" in entry else ""
            raise UserError(f"{path}: entry {number} is not a reference: {which}{error}") from None
    if not refs:
        raise UserError(f"{path} has no references at all: get the file from its publisher again")
    problems = Problems()
    for ref in refs:
        if ref.split not in PUBLISHED_SPLITS:
            problems.add(f"references have a split that is none of {', '.join(SPLITS)}", f"{ref.ref_id}: {ref.split!r}")
    problems.raise_if_any(path, "Is this file from the REFER API?")
    return refs


def count_splits(refs: Sequence[Ref]) -> dict[str, dict[str, int]]:
    """Per split, in the published order, the number of `refs`, `expressions` and `images`."""
    return {
        split: {
            "refs": len(own),
            "expressions": sum(len(ref.sentences) for ref in own),
            "images": len({ref.image_id for ref in own}),
        }
        for split in PUBLISHED_SPLITS
        if (own := [ref for ref in refs if ref.split == split])
    }


def shared_images(refs: Sequence[Ref]) -> Iterator[str]:
    """A sentence per pair of splits with images in common (RefCOCOg's Google split divides objects, not images)."""
    images: dict[str, set[int]] = defaultdict(set)
    for ref in refs:
        images[ref.split].add(ref.image_id)
    present = [split for split in PUBLISHED_SPLITS if split in images]
    for first, second in combinations(present, 2):
        if common := len(images[first] & images[second]):
            yield f"{common} images are in both {first} and {second}"


def write_store(
    layout: ReferLayout,
    refs: Sequence[Ref],
    out: str,
    *,
    skip_bad: bool = False,
    exif_annotated: ExifAnnotated = AS_SHOWN,
    prepared_with: dict[str, Any] | None = None,
    progress: Progress | None = None,
) -> tuple[DataStore, Findings]:
    """Writes the references and their images as a data store.

    Args:
        refs: what `read_refs(layout.refs)` gave.
        out: path or `s3://` address of the store.
        skip_bad: leave out, and count, what cannot be used, instead of refusing the whole data set.
        exif_annotated: how photos that EXIF turns were annotated, where their size does not tell.
        prepared_with: the stage's config, for the record.

    Raises:
        UserError: one line with the first few names and the total of everything that is wrong.
    """
    writer = DataStoreWriter(out, layout.name)
    coco = CocoInstances(layout.instances, layout.annotation_id)
    usable, photos, problems = _checked(layout, refs, coco)
    masks = CocoMasks(coco)
    store, findings = ingest(
        _source_images(layout, usable, photos, masks),
        writer,
        where=files_of(layout)[0],
        photos=[photos[coco.images[i].file_name] for i in usable],
        problems=problems,
        sources=[source_record(f"{layout.dataset}/{path.name}", path) for path in files_of(layout)],
        skip_bad=skip_bad,
        exif_annotated=exif_annotated,
        prepared_with=prepared_with,
        progress=progress,
    )
    findings.remarks = [*coco.remarks(), *masks.remarks()]
    return store, findings


def files_of(layout: ReferLayout) -> tuple[Path, ...]:
    """The published files that a layout is read from, without the photos."""
    return layout.sources or (layout.refs, layout.instances)


def _ref(entry: Any, annotation_id: Callable[[Any, str], int]) -> Ref:
    if not isinstance(entry, dict):
        raise ValueError(f"it is a {type(entry).__name__}")
    named = given(entry, "ann_id") if not flag(entry.get("no_target"), "no_target") else []
    ann_ids = [annotation_id(a, "ann_id") for a in (named if isinstance(named, list) else [named]) if a is not None]
    sentences = []
    spoken = given(entry, "sentences")
    if not isinstance(spoken, list | tuple) or not all(isinstance(sentence, dict) for sentence in spoken):
        raise ValueError("its sentences are not a list of sentences")
    for sentence in spoken:
        sent_id = whole_number(given(sentence, "sent_id"), "sent_id")
        sent = sentence["raw"] if sentence.get("sent") is None and "raw" in sentence else given(sentence, "sent")
        sentences.append((sent_id, text(sent, f"the text of sentence {sent_id}")))
    ref_id, image_id = (whole_number(given(entry, key), key) for key in ("ref_id", "image_id"))
    split = text(given(entry, "split"), "split")
    return Ref(ref_id, image_id, split, [a for a in ann_ids if a != -1], sentences)


def _checked(
    layout: ReferLayout, refs: Sequence[Ref], coco: CocoInstances
) -> tuple[dict[int, list[Ref]], dict[str, Path], Problems]:
    """References by image, those that can be used, the photos by name, and what is wrong with the others."""
    problems = Problems()
    usable: dict[int, list[Ref]] = {}
    names = {i: coco.images[i].file_name if i in coco.images else None for i in (ref.image_id for ref in refs)}
    for image_id in (i for i, name in names.items() if name is None):
        problems.add(f"images are not in {layout.instances.name}", image_id)
    photos = find_photos(layout.images, (name for name in names.values() if name is not None), layout.refs, problems)
    for ref in refs:
        sound = names[ref.image_id] in photos
        for annotation in ref.ann_ids:
            on = coco.image_of(annotation)
            if on is None:
                problems.add(f"annotations are not in {layout.instances.name}", f"{annotation} of ref {ref.ref_id}")
            elif on != ref.image_id and names[ref.image_id] is not None:
                problems.add("annotations lie on another image than their ref", f"{annotation} of ref {ref.ref_id}")
            sound = sound and on == ref.image_id
        spoken = [(sent_id, said) for sent_id, said in ref.sentences if said.strip()]
        for sent_id, said in ref.sentences:
            if not said.strip():
                problems.add("expressions are empty", f"{layout.name}/{sent_id}")
        if sound and spoken:
            ref = Ref(ref.ref_id, ref.image_id, ref.split, ref.ann_ids, spoken)
            usable.setdefault(ref.image_id, []).append(ref)
    return usable, photos, problems


def _source_images(
    layout: ReferLayout, usable: dict[int, list[Ref]], photos: dict[str, Path], masks: CocoMasks
) -> Iterator[SourceImage]:
    coco = masks.coco
    for image_id in sorted(usable, key=str):  # as strings, like the store's ids
        image = coco.images[image_id]
        referents = []
        for ref in usable[image_id]:
            objects = [coco.instance(annotation) for annotation in ref.ann_ids]
            names = dict.fromkeys(filter(None, (coco.name_of(o.category_id) for o in objects)))
            referents.append(
                Referent(
                    f"{layout.name}/{ref.ref_id}",
                    ref.split,
                    [(f"{layout.name}/{sent_id}", said) for sent_id, said in ref.sentences],
                    [o.segmentation for o in objects],
                    ref.ann_ids,
                    ", ".join(names),
                    ref.no_target,
                    masks.union(objects),
                )
            )
        path = photos[image.file_name]
        yield SourceImage(f"{layout.namespace}/{image_id}", path, (image.height, image.width), referents)
