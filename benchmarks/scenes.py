"""Generated scenes with a mask table, for the benchmarks of training; what is referred to serves as the proposals.

No proposer is trained for it: what a benchmark of training needs of the masks is their number and size, not how good
they are. `make_photos` makes data of the real size: JPEGs of 640x480, with 36 proposals each.
"""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from mail import rle
from mail.data import schema
from mail.data.mask_table import MaskTable
from mail.data.scenes import SceneConfig, generate_scene
from mail.data.store import DataStore
from mail.data.store_writer import DataStoreWriter

PROPOSER = {"id": "truth-000000000000", "name": "truth", "trained_on": {"count": 0, "digest": "0" * 64}, "leaky": False}


PROPOSALS = 36  # of a photo


def make_scenes(folder: Path, images: int) -> tuple[str, str]:
    """Addresses of a data store of `images` scenes and of its mask table; kept, if they are there already."""
    from pipelines.stages.prepare import PrepareSynthetic

    store_uri, masks_uri = str(folder / "store"), str(folder / "masks")
    if not (folder / "masks" / "_delta_log").exists():
        PrepareSynthetic(out=store_uri, images=images).run()
        store, table = DataStore(store_uri), MaskTable(masks_uri)
        evaluated = {
            i
            for s in store.splits
            if s != "train"
            for i in store.expressions([s], ["image_id"])["image_id"].to_pylist()
        }
        ids = store.image_index["image_id"].to_pylist()
        table.register_origin(str(PROPOSER["id"]), [i for i in ids if i not in evaluated])
        table.commit([table.write(_rows(store, _targets(store)))], PROPOSER)
    return store_uri, masks_uri


def make_photos(folder: Path, images: int) -> tuple[str, str]:
    """The same with photos of the real size, all of them to train on: scenes of 640x480, each in its four reflections.

    The proposals are the scene's objects and copies of them, moved and made larger or smaller.
    """
    store_uri, masks_uri = str(folder / "store"), str(folder / "masks")
    if (folder / "masks" / "_delta_log").exists():
        return store_uri, masks_uri
    writer, random, found = DataStoreWriter(store_uri, "photos"), np.random.default_rng(0), {}
    for number in range(images):
        if number % 4 == 0:
            scene = generate_scene(0, number // 4, SceneConfig(min_side=640, max_side=640))
            whole = rle.decode_many([item.mask for item in scene.objects], scene.size)
        flip = (slice(None, None, 1 - number % 2 * 2), slice(None, None, 1 - number // 2 % 2 * 2))
        pixels, masks = scene.image[80:560][flip], whole[:, 80:560][:, *flip]
        buffer, image_id = io.BytesIO(), f"photos/{number:06d}"
        Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
        writer.add_image(image_id=image_id, file_name=image_id, image=buffer.getvalue(), height=480, width=640)
        for r, reference in enumerate(scene.references):
            for s, sentence in enumerate(reference.sentences):
                writer.add_expression(
                    expr_id=f"{image_id}-{r}-{s}",
                    ref_id=f"{image_id}-{r}",
                    image_id=image_id,
                    split="train",
                    text=sentence.text,
                    target=rle.encode(masks[reference.target]),
                    no_target=False,
                    ann_ids=[r],
                    category="object",
                )
        copies = (_moved(masks[n % len(masks)], random) for n in range(PROPOSALS - len(masks)))
        found[image_id] = rle.encode_many(np.stack([*masks, *copies]))
    store, table = writer.finish(), MaskTable(masks_uri)
    table.register_origin(str(PROPOSER["id"]), list(found))
    table.commit([table.write(_rows(store, found))], PROPOSER)
    return store_uri, masks_uri


def _moved(mask: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A mask (H, W) somewhere else, and of another size."""
    scale, shifts = random.uniform(0.6, 1.6), random.uniform(-0.2, 0.2, 2)
    sides = zip(mask.shape, shifts, strict=True)
    y, x = (np.clip((np.arange(n) - n / 2) / scale + n * (0.5 + d), 0, n - 1).astype(int) for n, d in sides)
    return mask[np.ix_(y, x)]


def _targets(store: DataStore) -> dict[str, list[rle.RLE]]:
    """What is referred to in each image."""
    targets: dict[str, dict[bytes, dict]] = {}
    sentences = store.expressions(None, ["image_id", "target", "no_target"])
    for row in sentences.to_pylist():
        if not row["no_target"]:
            targets.setdefault(row["image_id"], {})[row["target"]["counts"]] = row["target"]
    return {image_id: list(found.values()) for image_id, found in targets.items()}


def _rows(store: DataStore, masks: dict[str, list[rle.RLE]]) -> pa.Table:
    rows = []
    for image in store.image_index.select(["image_id", "height", "width"]).to_pylist():
        instances = [
            {"score": 0.9, "label": 1, "bbox": list(rle.bbox(t)), "area": float(rle.area(t)), "rle": t["counts"]}
            for t in masks.get(image["image_id"], [])
        ]
        rows.append(
            {"proposer_id": PROPOSER["id"], "image_sha256": "", "status": schema.STATUS_OK, "error": None}
            | image
            | {"instances": instances}
        )
    return pa.Table.from_pylist(rows, schema.MASKS)
