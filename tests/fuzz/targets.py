"""The readers and a sound file of each kind: what `python -m tests.fuzz` spoils."""

import io
import json
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from hypothesis import strategies as st
from PIL import Image

from mail import rle
from mail.data import coco_text, custom, refer, schema
from mail.data.coco import CocoInstances
from mail.data.coco_text import TextConfig
from mail.data.images import ImageError, decode_image
from mail.data.mask_table import MaskTable
from mail.data.sets import DATA_SETS
from mail.data.store import DataStore
from mail.metrics.joining import read_any_predictions
from mail.metrics.predictions import png_name, read_predictions
from tests import own_formats
from tests.boxes import make_boxes
from tests.fuzz import mutations
from tests.mail.data.sets.test_phrasecut import PhraseCut
from tests.mail.data.sets.test_refer_parquet import write_references
from tests.mail.data.sets.test_referit import ReferIt
from tests.mask_rows import ids, mask_rows
from tests.own_formats import Item
from tests.published import Published, jpeg


@dataclass(frozen=True)
class Target:
    """`inputs` are given to `read`, which may return or raise a UserError."""

    inputs: st.SearchStrategy[bytes]
    read: Callable[[bytes], None]


def targets(folder: Path) -> dict[str, Target]:
    """All of them, at work in `folder`."""
    published = Published(folder / "refcoco")
    published.write()
    grefs = [
        {"ref_id": 1, "image_id": 1, "split": "train", "ann_id": [10, 11], "sentences": [{"sent_id": 1, "sent": "a"}]},
        {"ref_id": 2, "image_id": 2, "split": "val", "ann_id": [-1], "sentences": [{"sent_id": 2, "sent": "b"}]},
    ]
    return {
        "coco": Target(mutations.json_files(published.instances), lambda data: _coco(published, data)),
        "coco-text": Target(mutations.json_files(published.instances), lambda data: _coco_text(published, data)),
        "refs": Target(mutations.pickles(published.refs), lambda data: _refs(published.root, data, "refs.p")),
        "grefs": Target(mutations.json_files(grefs), lambda data: _refs(published.root, data, "grefs.json")),
        **_published_sets(folder / "sets"),
        "json lines": _custom(folder / "custom"),
        **_own(folder / "own"),
        "predictions": _predictions(folder / "predictions.jsonl"),
        **_dumps(folder / "dumps"),
        "mask png": _mask_pngs(folder / "pngs"),
        "photo": Target(st.one_of(*map(mutations.damaged, _photos())), _photo),
        "store": _store(folder / "store"),
        "mask rows": _masks(folder / "rows", "*/*.parquet"),
        "commit log": _masks(folder / "log", "_delta_log/*1.json"),
    }


def _fresh(folder: Path) -> str:
    shutil.rmtree(folder, ignore_errors=True)
    return str(folder)


def _coco(published: Published, data: bytes) -> None:
    layout = refer.find_layout(published.root, "refcoco", "unc")
    layout.instances.write_bytes(data)
    coco = CocoInstances(layout.instances)
    for number in coco.annotation_ids:
        with suppress(ValueError):  # which is how it says that a segmentation is none
            coco.mask(coco.instance(int(number)))
    refer.write_store(layout, refer.read_refs(layout.refs), _fresh(published.root / "out"), skip_bad=True)


def _coco_text(published: Published, data: bytes) -> None:
    layout = refer.find_layout(published.root, "refcoco", "unc")
    layout.instances.write_bytes(data)
    coco_text.write_store(
        str(layout.instances), layout.images, _fresh(published.root / "text"), config=TextConfig(), skip_bad=True
    )


def _refs(root: Path, data: bytes, name: str) -> None:
    (root / name).write_bytes(data)
    refer.read_refs(root / name)


def _published_sets(folder: Path) -> dict[str, Target]:
    """PhraseCut's tasks, ReferIt's regions, and a mirror in Parquet form."""
    phrasecut, referit = PhraseCut(folder / "phrasecut").write(), ReferIt(folder / "referit").write()
    published = Published(folder / "refer", splits=("val",)).write()
    write_references(folder / "mirror", published.refs, published.instances)
    [mirror] = (folder / "mirror").iterdir()
    tempfile.tempdir = str(folder)  # where a mirror is put back into the published form
    DATA_SETS["refcoco"].open(mirror, "unc", published.images_folder)  # loads libraries, once

    def target(inputs: st.SearchStrategy[bytes], path: Path, name: str, split_by: str, root: Path) -> Target:
        def read(data: bytes) -> None:
            path.write_bytes(data)
            found = DATA_SETS[name].open(root, split_by, published.images_folder if root == mirror else None)
            found.write_store(_fresh(folder / "out"), skip_bad=True)

        return Target(inputs, read)

    tasks, regions = phrasecut.root / "refer_miniv.json", referit.root / "refclef/instances.json"
    return {
        "phrasecut": target(mutations.json_files(phrasecut.tasks["miniv"]), tasks, "phrasecut", "", phrasecut.root),
        "referit": target(mutations.json_files(referit.instances), regions, "referit", "berkeley", referit.root),
        "mirror": target(mutations.damaged(mirror.read_bytes()), mirror, "refcoco", "unc", mirror),
    }


def _custom(folder: Path) -> Target:
    (folder / "images").mkdir(parents=True)
    (folder / "images/a.jpg").write_bytes(jpeg())
    (folder.parent / "outside.png").write_bytes(jpeg(kind="PNG"))
    common = {"image": "a.jpg", "text": "the left cup", "split": "train"}
    lines = [
        {"expr_id": "1", **common, "polygons": [[1, 1, 20, 1, 20, 20]], "category": "cup", "ref_id": "r"},
        {"expr_id": "2", **common, "rle": {"size": [30, 40], "counts": [100, 50, 1050]}},
        {"expr_id": "3", **common, "no_target": True},
    ]

    def read(data: bytes) -> None:
        (folder / "lines.jsonl").write_bytes(data)
        out = _fresh(folder / "out")
        custom.write_store(folder / "lines.jsonl", folder / "images", out, name="mine", skip_bad=True)

    return Target(mutations.json_lines(lines), read)


def _own(folder: Path) -> dict[str, Target]:
    """The other formats of own data."""
    (folder / "images").mkdir(parents=True)
    (folder / "images/a.jpg").write_bytes(jpeg())
    polygons = [[1.0, 1.0, 20.0, 1.0, 20.0, 20.0]]
    items = [Item(str(n), "r", "train", "a.jpg", (30, 40), f"cup {n}", "cup", polygons) for n in range(2)]

    def target(writer: Callable[[Path, list[Item]], Path], suffix: str) -> Target:
        place = folder / writer.__name__
        place.mkdir()
        written = writer(place, items)
        path = written / "a.json" if written.is_dir() else written
        sound = path.read_bytes()

        def read(data: bytes) -> None:
            path.write_bytes(data)
            custom.check(path, folder / "images", name="own", format=suffix)

        return Target(mutations.damaged(sound) if suffix == "csv" else mutations.json_files(json.loads(sound)), read)

    return {
        "json": target(own_formats.json_array, "json"),
        "csv": target(own_formats.csv_of_excel, "csv"),
        "label studio": target(own_formats.label_studio, "label-studio"),
        "labelme": target(own_formats.labelme_masks, "labelme"),
        "coco with sentences": target(own_formats.cvat, "coco"),
    }


def _predictions(path: Path) -> Target:
    mask = np.zeros((30, 40), bool)
    mask[3:9, 4:20] = True
    counts = rle.encode(mask)["counts"].decode()
    lines = [
        {"expr_id": "d/1", "rle": {"size": [30, 40], "counts": counts}, "score": 0.5, "no_target": False},
        {"expr_id": "d/2", "rle": {"size": [30, 40], "counts": [10, 5, 1185]}},
        {"expr_id": "d/3", "rle": None, "no_target": True},
    ]

    def read(data: bytes) -> None:
        path.write_bytes(data)
        read_predictions(path)

    return Target(mutations.json_lines(lines), read)


def _expressions() -> pa.Table:
    target = {"size": [30, 40], "counts": rle.empty(30, 40)["counts"]}
    rows = [
        {"expr_id": f"d/{n}", "ref_id": "d/7", "image_id": "i/1", "text": f"cup {n}", "target": target} for n in (1, 2)
    ]
    return pa.Table.from_pylist(rows, schema.EXPRESSIONS)


def _dumps(folder: Path) -> dict[str, Target]:
    """What published systems write, but for folders of PNGs."""
    folder.mkdir()
    mask = np.zeros((30, 40), bool)
    mask[3:9, 4:20] = True
    results = [
        {"image_id": 1, "segmentation": rle.to_json(rle.encode(mask)), "score": 0.5},
        {"image_id": 4, "sent_id": 2, "segmentation": {"size": [30, 40], "counts": [10, 5, 1185]}, "score": 0.25},
    ]
    said = [{"sent_info": {"sent_id": n}, "sent": f"cup {n}", "pred_mask": mask, "pred_nt": n == 2} for n in (1, 2)]
    dumps = {name: io.BytesIO() for name in ("p.pth", "p.npz", "p.npy")}
    torch.save(said, dumps["p.pth"])
    np.savez_compressed(dumps["p.npz"], **{"1": mask, "d__2": mask.astype(np.float32)})
    np.save(dumps["p.npy"], np.stack([mask, ~mask]))

    def target(name: str, inputs: st.SearchStrategy[bytes]) -> Target:
        def read(data: bytes) -> None:
            (folder / name).write_bytes(data)
            read_any_predictions(folder / name, _expressions())

        return Target(inputs, read)

    sound = {name: mutations.damaged(data.getvalue()) for name, data in dumps.items()}
    sound["p.pth"] |= mutations.pickles([{"sent": "cup 1", "sent_info": {"sent_id": 1}, "pred_nt": False}])
    return {
        "coco results": target("r.json", mutations.json_files(results)),
        **{n: target(n, s) for n, s in sound.items()},
    }


def _pngs() -> list[bytes]:
    mask = np.zeros((16, 12), np.uint8)
    mask[4:9, 3:7] = 255
    grey = Image.fromarray(mask)
    out = []
    for mode in ("L", "1", "P", "RGBA", "LA", "I;16"):
        buffer = io.BytesIO()
        grey.convert(mode).save(buffer, "PNG")
        out.append(buffer.getvalue())
    return out


def _mask_pngs(folder: Path) -> Target:
    folder.mkdir()

    def read(data: bytes) -> None:
        (folder / png_name("d/1")).write_bytes(data)
        read_any_predictions(folder, _expressions())

    return Target(st.one_of(*map(mutations.damaged, _pngs())), read)


def _photos() -> list[bytes]:
    picture = Image.new("RGB", (9, 7), (1, 2, 3))
    exif = picture.getexif()
    exif[274] = 6
    kinds = [("JPEG", {"exif": exif}), ("PNG", {}), ("WEBP", {}), ("TIFF", {}), ("GIF", {}), ("BMP", {})]
    out = []
    for kind, options in kinds:
        buffer = io.BytesIO()
        picture.save(buffer, kind, **options)
        out.append(buffer.getvalue())
    return out


def _photo(data: bytes) -> None:
    with suppress(ImageError):
        decode_image(data, max_pixels=10**6)


def _store(folder: Path) -> Target:
    boxes = make_boxes(folder, images=4, broken=0)
    parts = sorted(Path(boxes.store_uri).rglob("*.parquet"))
    meta = Path(boxes.store_uri, "store.json")
    sound = {path: path.read_bytes() for path in (*parts, meta)}

    def read(data: bytes) -> None:
        number, data = data[0] % (len(parts) + 1), data[1:]
        target = (*parts, meta)[number]
        target.write_bytes(data)
        try:
            store = DataStore(boxes.store_uri)
            store.expressions()
            for _ in store.images():
                pass
        finally:
            target.write_bytes(sound[target])

    inputs = [
        (mutations.json_files(json.loads(sound[meta])) if path == meta else mutations.damaged(sound[path])).map(
            lambda data, number=number: bytes([number]) + data
        )
        for number, path in enumerate((*parts, meta))
    ]
    return Target(st.one_of(*inputs), read)


def _masks(folder: Path, which: str) -> Target:
    address = folder / "table"
    table = MaskTable(address)
    proposer = {"id": "p-1", "name": "p", "trained_on": None, "leaky": False}
    for number in range(3):
        table.commit([table.write(mask_rows(ids(2 * number, 2 * number + 1)))], proposer)
    target = sorted(address.glob(which))[0]
    sound = target.read_bytes()

    def read(data: bytes) -> None:
        target.write_bytes(data)
        try:
            for row in MaskTable(address).snapshot().rows():
                assert row["image_id"].startswith("coco/"), "a row that nobody committed"
        finally:
            target.write_bytes(sound)

    return Target(mutations.damaged(sound), read)
