"""The real evaluation images of RefCOCO as a data store without photos, for the leak firewall."""

import json
from pathlib import Path

from mail import rle
from mail.data.store import DataStore
from mail.data.store_writer import DataStoreWriter

SPLITS = ("val", "testA", "testB")


def refcoco_lists(data: Path) -> dict[str, str]:
    """Split by image id of all images of RefCOCO val, testA and testB."""
    found: dict[str, str] = {}
    for split in SPLITS:
        with (data / "refcoco_text" / f"{split}.jsonl").open(encoding="utf-8") as lines:
            found |= {f"coco/{json.loads(line)['image_id']}": split for line in lines}
    return found


def write_lists(folder: Path, images: dict[str, str]) -> DataStore:
    """A store with an expression for each of `images` (split by id); nobody could decode its photos."""
    writer = DataStoreWriter(folder, "refcoco-unc")
    for number, (image_id, split) in enumerate(sorted(images.items())):
        writer.add_image(image_id=image_id, file_name="", image=image_id.encode(), height=12, width=16)
        writer.add_expression(
            expr_id=f"lists/{number}",
            ref_id="r",
            image_id=image_id,
            split=split,
            text="it",
            target=rle.empty(12, 16),
            no_target=False,
            ann_ids=[],
            category="",
        )
    return writer.finish()
