"""`mail-ris prepare DATASET`: a data set's own files -> a data store, which every later stage reads.

    mail-ris prepare synthetic --out runs/store --images 1000 --seed 0
    mail-ris prepare refcoco --split-by unc --root data/refer --out s3://bucket/refcoco-unc

Needs no cluster: the disk is the limit. Images are read one at a time (some threads ahead), so memory does not grow
with the data set's pixels.
"""

import dataclasses
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import tyro

from mail.data.coco_text import TextConfig
from mail.data.scenes import SceneConfig
from mail.errors import UserError
from pipelines.stage import Stage, done, say

if TYPE_CHECKING:
    from mail.data.ingest import Findings
    from mail.data.refer import Ref, ReferLayout
    from mail.data.store import DataStore

Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff]
_SECONDS_BETWEEN_LINES = 5.0


@dataclasses.dataclass(kw_only=True)
class PrepareSynthetic(Stage):
    """Generated scenes with expressions like people's, in the published layout, read like RefCOCO."""

    out: str
    """Data store to write: a folder or an s3:// address."""
    images: int = 1000
    """Number of scenes."""
    seed: int = 0
    """Which scenes: the same seed gives the same ones, and more images only add to them."""
    root: str | None = None
    """Keep the published layout (JPEGs, instances.json, refs) in this folder; a temporary one if not given."""
    scene: SceneConfig = dataclasses.field(default_factory=SceneConfig)
    """How the scenes look."""

    def plan(self) -> dict[str, Any]:
        from mail.data.store import DataStoreWriter

        if self.images < 1:
            raise UserError(f"--images is {self.images}: at least one scene is needed")
        DataStoreWriter(self.out, self._name)  # refuses to overwrite a finished store
        return {"name": self._name, "images": self.images, "layout": self.root or "a temporary folder, deleted after"}

    def run(self) -> "DataStore":
        from mail.data.refer import find_layout, read_refs
        from mail.data.scenes import write_published_layout

        self.plan()
        with tempfile.TemporaryDirectory(prefix="mail-scenes-") as temporary:
            root = self.root or temporary
            say(f"generating {self.images} scenes from seed {self.seed}")
            write_published_layout(root, self.images, self.seed, self.scene, progress_lines("scenes generated"))
            layout = find_layout(root, "synthetic", "synthetic", name=self._name, namespace=self._namespace)
            refs = read_refs(layout.refs)
            return write_and_report(layout, refs, self.out, skip_bad=False, prepared_with=_record(self))

    @property
    def _name(self) -> str:
        return f"synthetic-{self.seed}"

    @property
    def _namespace(self) -> str:
        """Scenes that look different have different ids, so that no mask table takes one for the other."""
        if self.scene == SceneConfig():
            return f"synthetic/{self.seed}"
        import hashlib
        import json

        config = json.dumps(dataclasses.asdict(self.scene), sort_keys=True)
        return f"synthetic/{self.seed}-{hashlib.sha256(config.encode()).hexdigest()[:8]}"


@dataclasses.dataclass(kw_only=True)
class PrepareScenes(PrepareSynthetic):
    """The benchmark: many more and larger scenes from the generator of `prepare synthetic`."""

    images: int = 20_000
    """Number of scenes."""
    scene: SceneConfig = dataclasses.field(default_factory=lambda: SceneConfig(min_side=224, max_side=320))
    """How the scenes look."""


@dataclasses.dataclass(kw_only=True)
class _PrepareRefer(Stage):
    dataset: ClassVar[str]
    split_by: str
    root: str
    """Folder with the layout of the REFER API: ROOT/DATASET/refs(*.p), ROOT/DATASET/instances.json, ROOT/images."""
    out: str
    """Data store to write: a folder or an s3:// address."""
    images: str | None = None
    """Folder of the photos, if not ROOT/images/train2014 or ROOT/images/mscoco/images/train2014."""
    strict: Flag = False
    """Fail if the counts per split differ from the published ones (else the difference is only said)."""
    skip_bad: Flag = False
    """Leave out what cannot be used (missing photos or annotations, empty expressions) and say how much, instead of
    failing."""

    def plan(self) -> dict[str, Any]:
        layout, refs = self._read()
        from mail.data.refer import count_splits

        return {
            "name": layout.name,
            "files": [str(layout.refs), str(layout.instances), str(layout.images)],
            "splits": count_splits(refs),
            "differences": self._compare(layout, refs),
        }

    def run(self) -> "DataStore":
        layout, refs = self._read()
        say(f"{layout.refs}: {len(refs)} references")
        from mail.data.refer import count_splits

        for line in count_table(layout.dataset, layout.split_by, count_splits(refs)):
            say(line)
        different = self._compare(layout, refs)
        if different and self.strict:
            raise UserError(f"{layout.refs} is not what was published: {'; '.join(different)}")
        if different:
            say(f"not what was published: {'; '.join(different)}")
        return write_and_report(layout, refs, self.out, skip_bad=self.skip_bad, prepared_with=_record(self))

    def _read(self) -> tuple["ReferLayout", list["Ref"]]:
        from mail.data.refer import find_layout, read_refs
        from mail.data.store import DataStoreWriter

        layout = find_layout(self.root, self.dataset, self.split_by, self.images)
        DataStoreWriter(self.out, layout.name)  # refuses to overwrite a finished store
        return layout, read_refs(layout.refs)

    @staticmethod
    def _compare(layout: "ReferLayout", refs: list["Ref"]) -> list[str]:
        from mail.data.published import differences
        from mail.data.refer import count_splits

        return differences(layout.dataset, layout.split_by, count_splits(refs))


@dataclasses.dataclass(kw_only=True)
class PrepareRefcoco(_PrepareRefer):
    """RefCOCO (Yu et al., 2016): short expressions, place words allowed."""

    split_by: Literal["unc", "google"] = "unc"
    """Whose split: unc (train, val, testA, testB) or google (train, val, test)."""
    dataset = "refcoco"


@dataclasses.dataclass(kw_only=True)
class PrepareRefcocoPlus(_PrepareRefer):
    """RefCOCO+ (Yu et al., 2016): no words of absolute place."""

    split_by: Literal["unc"] = "unc"
    """Whose split: unc (train, val, testA, testB)."""
    dataset = "refcoco+"


@dataclasses.dataclass(kw_only=True)
class PrepareRefcocog(_PrepareRefer):
    """RefCOCOg, also G-Ref (Mao et al., 2016): long expressions."""

    split_by: Literal["umd", "google"] = "umd"
    """Whose split: umd (train, val, test, no image in two of them) or google (train, val, split by object)."""
    dataset = "refcocog"


@dataclasses.dataclass(kw_only=True)
class PrepareGrefcoco(_PrepareRefer):
    """gRefCOCO (Liu, Ding, Jiang, 2023): expressions that name several objects, or nothing."""

    split_by: Literal["unc"] = "unc"
    """Whose split: unc (train, val, testA, testB)."""
    dataset = "grefcoco"


@dataclasses.dataclass(kw_only=True)
class PrepareCocoText(Stage):
    """Template expressions for any COCO-format instances, each checked to be unambiguous in its image."""

    instances: Path
    """COCO instances.json: polygons or run lengths of every object."""
    images: Path
    """Folder of its photos."""
    out: str
    """Data store to write: a folder or an s3:// address."""
    name: str = "coco-text"
    """Name of the data set, and the beginning of its expression ids."""
    namespace: str = "coco"
    """Beginning of the image ids. Keep "coco" for COCO's own photos: the leak check knows them by it."""
    text: TextConfig = dataclasses.field(default_factory=TextConfig)
    """How many expressions are made, and of what."""
    skip_bad: Flag = False
    """Leave out photos that are missing or do not fit their annotations and say how many, instead of failing."""

    def plan(self) -> dict[str, Any]:
        from mail.data.coco import CocoInstances
        from mail.data.store import DataStoreWriter

        DataStoreWriter(self.out, self.name)  # refuses to overwrite a finished store
        if not self.images.is_dir():
            raise UserError(f"there is no folder {self.images}: --images is where the photos are")
        coco = CocoInstances(self.instances)
        counts = {"images": len(coco.images), "instances": len(coco), "categories": len(coco.categories)}
        return {"name": self.name, **counts, "expressions": f"at most {self.text.max_expressions} a referent"}

    def run(self) -> "DataStore":
        from mail.data.coco_text import write_store

        store, findings = write_store(
            str(self.instances),
            self.images,
            self.out,
            name=self.name,
            namespace=self.namespace,
            config=self.text,
            skip_bad=self.skip_bad,
            prepared_with=_record(self),
            progress=progress_lines("images read"),
        )
        report(store, findings)
        return store


@dataclasses.dataclass(kw_only=True)
class PrepareCustom(Stage):
    """Your own data: a JSON Lines file of expressions with polygons or run lengths, and a folder of photos.

    A line is {"expr_id", "image", "text", "split", and "polygons" or "rle" or "no_target": true}.
    """

    expressions: Path
    """JSON Lines file, one expression a line."""
    images: Path
    """Folder that the lines' "image" is relative to."""
    out: str
    """Data store to write: a folder or an s3:// address."""
    name: str = "custom"
    """Name of the data set, and the beginning of its ids."""
    skip_bad: Flag = False
    """Leave out missing photos and unusable masks and say how many, instead of failing."""

    def plan(self) -> dict[str, Any]:
        from mail.data.custom import read_expressions
        from mail.data.store import DataStoreWriter

        DataStoreWriter(self.out, self.name)  # refuses to overwrite a finished store
        expressions = read_expressions(self.expressions)
        splits = Counter(expression.split for expression in expressions)
        return {"name": self.name, "images": len({e.image for e in expressions}), "expressions": dict(splits)}

    def run(self) -> "DataStore":
        from mail.data.custom import write_store

        store, findings = write_store(
            self.expressions,
            self.images,
            self.out,
            name=self.name,
            skip_bad=self.skip_bad,
            prepared_with=_record(self),
            progress=progress_lines("images read"),
        )
        report(store, findings)
        return store


@dataclasses.dataclass(kw_only=True)
class PrepareMix(Stage):
    """Several data stores as one to train on; what any of them evaluates on loses its training expressions."""

    stores: tuple[str, ...]
    """The data stores to put together (local or s3://)."""
    out: str
    """Data store to write: a folder or an s3:// address."""
    held_out: tuple[str, ...] = ()
    """Data stores whose val and test images must not be trained on either, though they are not put in."""
    name: str = "mix"
    """Name of the mixture."""
    strict: Flag = False
    """Fail if a training image is an evaluation image, instead of leaving it out."""

    def _stores(self) -> tuple[list["DataStore"], list["DataStore"]]:
        from mail.data.store import DataStore, DataStoreWriter

        DataStoreWriter(self.out, self.name)  # refuses to overwrite a finished store
        return [DataStore(uri) for uri in self.stores], [DataStore(uri) for uri in self.held_out]

    def plan(self) -> dict[str, Any]:
        from mail.data.mix import evaluation_images
        from mail.leakage import overlaps

        stores, held_out = self._stores()
        train = {
            s.name: s.expressions(["train"], ["image_id"])["image_id"].to_pylist()
            for s in stores
            if "train" in s.splits
        }
        return {
            "name": self.name,
            "stores": {s.name: s.splits for s in stores},
            "evaluation_images": len(evaluation_images([*stores, *held_out])),
            "trained_and_evaluated": {
                f"{name} train": {s.name: found for s in [*stores, *held_out] if (found := overlaps(ids, s))}
                for name, ids in train.items()
            },
        }

    def run(self) -> "DataStore":
        from mail.data.mix import mix

        stores, held_out = self._stores()
        if self.strict:
            found = [
                f"{count} images of {trained} are in {store} {split}"
                for trained, by_store in self.plan()["trained_and_evaluated"].items()
                for store, by_split in by_store.items()
                for split, count in by_split.items()
            ]
            if found:
                raise UserError(f"{'; '.join(found)}. Without --strict they are left out of the training")
        mixture = mix(stores, self.out, self.name, held_out, _record(self), progress_lines("images mixed"))
        for (store, where), (images, expressions) in mixture.left_out.items():
            say(f"left out: {expressions} training expressions of {store} on {images} images of {where}")
        splits = ", ".join(f"{name} {count['expressions']}" for name, count in mixture.store.splits.items())
        done(
            f"wrote {mixture.store.uri}: {mixture.store.name}, {mixture.store.manifest['image_count']} images, "
            f"expressions {splits}; {mixture.expressions} training expressions on {mixture.images} evaluation images "
            f"left out, digest {mixture.store.digest[:12]}"
        )
        return mixture.store


PREPARE: dict[str, type[Stage]] = {
    "synthetic": PrepareSynthetic,
    "scenes": PrepareScenes,
    "refcoco": PrepareRefcoco,
    "refcoco+": PrepareRefcocoPlus,
    "refcocog": PrepareRefcocog,
    "grefcoco": PrepareGrefcoco,
    "coco-text": PrepareCocoText,
    "custom": PrepareCustom,
    "mix": PrepareMix,
}


def write_and_report(
    layout: "ReferLayout", refs: list["Ref"], out: str, *, skip_bad: bool, prepared_with: dict[str, Any]
) -> "DataStore":
    """Writes the store, says what was found on the way, and prints the summary."""
    from mail.data.refer import shared_images, write_store

    for line in shared_images(refs):
        say(line)
    store, findings = write_store(
        layout, refs, out, skip_bad=skip_bad, prepared_with=prepared_with, progress=progress_lines("images read")
    )
    report(store, findings)
    return store


def report(store: "DataStore", findings: "Findings") -> None:
    """Says every finding and prints the stage's summary."""
    for line in findings.lines():
        say(line)
    splits = ", ".join(f"{name} {count['expressions']}" for name, count in store.splits.items())
    refs = sum(count["refs"] for count in store.splits.values())
    done(
        f"wrote {store.uri}: {store.name}, {findings.images} images, {refs} refs, {findings.expressions} expressions "
        f"({splits}), digest {store.digest[:12]}"
    )


def count_table(dataset: str, split_by: str, found: Mapping[str, Mapping[str, int]]) -> list[str]:
    """Lines of a table: what each split holds, and what was published."""
    from mail.data.published import PUBLISHED

    published = PUBLISHED.get((dataset, split_by), {})
    lines = [f"{'split':8}{'refs':>18}{'expressions':>20}{'images':>18}   (found / published)"]
    for split in dict.fromkeys([*published, *found]):
        cells = []
        for kind in ("refs", "expressions", "images"):
            number = getattr(published[split], kind) if split in published else None
            cells.append(f"{found.get(split, {}).get(kind, 0)} / {'?' if number is None else number}")
        lines.append(f"{split:8}{cells[0]:>18}{cells[1]:>20}{cells[2]:>18}")
    return lines


def progress_lines(what: str) -> Callable[[int, int], None]:
    """A `progress(done, total)` that says a line now and then, and one at the end."""
    started = last = time.monotonic()

    def progress(finished: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if finished == total or now - last >= _SECONDS_BETWEEN_LINES:
            last = now
            say(f"{what}: {finished} of {total} ({finished / max(now - started, 1e-3):.0f}/s)")

    return progress


def _record(stage: Stage) -> dict[str, Any]:
    """The config as `store.json` keeps it."""
    config = {k: str(v) if isinstance(v, Path) else v for k, v in dataclasses.asdict(stage).items()}
    config.pop("dry_run")
    return {"stage": type(stage).__name__, **config}
