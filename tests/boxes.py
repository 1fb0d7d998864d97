"""A small data set of coloured boxes, with a mask table, for the tests of training: real files, written in a second."""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from mail import rle
from mail.data import schema
from mail.data.mask_snapshot import MaskSnapshot
from mail.data.mask_table import MaskTable
from mail.data.origins import Origin
from mail.data.store import DataStore
from mail.data.store_writer import DataStoreWriter
from mail.model import MailConfig
from mail.proposals import Proposals

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (40, 40, 230)}


@dataclass
class Boxes:
    """The data set and where it is."""

    store: DataStore
    masks: MaskSnapshot
    store_uri: str
    masks_uri: str


def make_boxes(folder: Path, images: int = 30, broken: int = 1) -> Boxes:
    """`images` pictures with a box of each colour; the first `broken` ones of the training split are no pictures."""
    random = np.random.default_rng(0)
    writer = DataStoreWriter(folder / "store", "boxes")
    rows = []
    for number in range(images):
        height, width = (48, 64) if number % 2 else (64, 40)
        split = ("val", "testA")[number % 8 // 7] if number % 4 == 3 else "train"
        pixels = random.integers(90, 150, (height, width, 3), dtype=np.uint8)
        targets = {}
        for slot, (colour, value) in enumerate(COLOURS.items()):
            top, left = random.integers(0, height - 16), slot * width // 3
            mask = np.zeros((height, width), bool)
            mask[top : top + 14, left : left + 11] = True
            pixels[mask] = value
            targets[colour] = rle.encode(mask)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=95)
        bad = number < broken
        data = buffer.getvalue()[:200] if bad else buffer.getvalue()
        size = (0, 0) if bad else (height, width)
        image_id = f"boxes/{number:04d}"
        writer.add_image(image_id=image_id, file_name=f"{number}.jpg", image=data, height=size[0], width=size[1])
        for slot, (colour, target) in enumerate(targets.items()):
            for sentence, text in enumerate((f"the {colour} box", f"{colour} one")):
                writer.add_expression(
                    expr_id=f"boxes/{number}-{slot}-{sentence}",
                    ref_id=f"boxes/ref-{number}-{slot}",
                    image_id=image_id,
                    split=split,
                    text=text,
                    target=target,
                    no_target=False,
                    ann_ids=[slot],
                    category="box",
                )
        found = list(targets.values())
        proposals = Proposals(
            (height, width),
            np.linspace(0.9, 0.5, len(found), dtype=np.float32),
            np.ones(len(found), np.int32),
            np.array([rle.bbox(r) for r in found], np.float32),
            found,
        )
        rows.append(
            {
                "image_id": image_id,
                "proposer_id": "boxes-0123456789ab",
                "image_sha256": "",
                "height": size[0],
                "width": size[1],
                "status": schema.STATUS_DECODE_ERROR if bad else schema.STATUS_OK,
                "error": "cut short" if bad else None,
                "instances": [] if bad else proposals.to_rows(),
            }
        )
    store = writer.finish(sources=[{"path": "boxes.json", "sha256": "0" * 64, "bytes": 1}])
    table = MaskTable(folder / "masks")
    seen = [f"boxes/{n:04d}" for n in range(images) if n % 4 != 3]
    table.register_origin("boxes-0123456789ab", seen)
    proposer = {"id": "boxes-0123456789ab", "name": "boxes", "trained_on": Origin.of(seen).summary, "leaky": False}
    table.commit([table.write(pa.Table.from_pylist(rows, schema.MASKS))], proposer)
    return Boxes(store, table.snapshot(), str(folder / "store"), str(folder / "masks"))


def micro_config(**changes: object) -> MailConfig:
    """A network of some ten thousand parameters."""
    values = {
        "vocab_size": 200,
        "max_text_length": 8,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "patch_size": 16,
        "position_grid": 4,
        "image_size": 64,
        "mask_stride": 4,
        "max_instances": 4,
        "geometry_init": "normal",
        "decoder_dim": 8,
        "stem_dim": 8,
    }
    return MailConfig(**(values | changes))
