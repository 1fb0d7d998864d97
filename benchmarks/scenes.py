"""Generated scenes with a mask table, for the benchmarks of training; what is referred to serves as the proposals.

No proposer is trained for it: what a benchmark of training needs of the masks is their number and size, not how good
they are.
"""

from pathlib import Path

import pyarrow as pa

from mail import rle
from mail.data import schema
from mail.data.mask_table import MaskTable
from mail.data.store import DataStore

PROPOSER = {"id": "truth-000000000000", "name": "truth", "trained_on": {"count": 0, "digest": "0" * 64}, "leaky": False}


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
        table.commit([table.write(_rows(store))], PROPOSER)
    return store_uri, masks_uri


def _rows(store: DataStore) -> pa.Table:
    targets: dict[str, dict[bytes, dict]] = {}
    sentences = store.expressions(None, ["image_id", "target", "no_target"])
    for row in sentences.to_pylist():
        if not row["no_target"]:
            targets.setdefault(row["image_id"], {})[row["target"]["counts"]] = row["target"]
    rows = []
    for image in store.image_index.select(["image_id", "height", "width"]).to_pylist():
        instances = [
            {"score": 0.9, "label": 1, "bbox": list(rle.bbox(t)), "area": float(rle.area(t)), "rle": t["counts"]}
            for t in targets.get(image["image_id"], {}).values()
        ]
        rows.append(
            {"proposer_id": PROPOSER["id"], "image_sha256": "", "status": schema.STATUS_OK, "error": None}
            | image
            | {"instances": instances}
        )
    return pa.Table.from_pylist(rows, schema.MASKS)
