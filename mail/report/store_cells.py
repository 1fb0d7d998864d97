"""Which things of a data store its contact sheet shows, and what each looks like."""

from collections.abc import Callable, Sequence
from itertools import zip_longest

import numpy as np

from mail import rle
from mail.data.images import ImageError, decode_image
from mail.data.row_groups import RowGroups, RowReader
from mail.data.schema import in_order
from mail.data.store import DataStore
from mail.report.contact_sheet import Cell, picture_of

CACHE_BYTES = 2**26


def chosen(store: DataStore, most: int, seed: int) -> list[str]:
    """Ids of things (refs), at most so many: all splits alike, and as many different photos as there are.

    In the order of their splits; the same seed gives the same ones.
    """
    table = store.expressions(columns=["ref_id", "image_id", "split"]).group_by(["split", "image_id", "ref_id"])
    by_split: dict[str, dict[str, list[str]]] = {}
    for row in sorted(table.aggregate([]).to_pylist(), key=lambda row: str(sorted(row.items()))):
        by_split.setdefault(row["split"], {}).setdefault(row["image_id"], []).append(row["ref_id"])
    random = np.random.default_rng(seed)
    turns = []
    for split in in_order(by_split):
        photos = by_split[split]
        shuffled = [[str(ref) for ref in random.permutation(refs)] for refs in photos.values()]
        order = [shuffled[n] for n in random.permutation(len(shuffled))]
        turns.append([ref for turn in zip_longest(*order) for ref in turn if ref is not None])
    # a split that has few leaves its place to the others
    taken = [ref for turn in zip_longest(*turns) for ref in turn if ref is not None][:most]
    kept = set(taken)
    return [ref for refs in turns for ref in refs if ref in kept]


def cells(store: DataStore, refs: Sequence[str], progress: Callable[[int, int], None] | None = None) -> list[Cell]:
    """What the sheet shows of these things."""
    wanted = set(refs)
    rows: dict[str, list[dict]] = {}
    columns = ["expr_id", "ref_id", "image_id", "split", "text", "target", "no_target", "category"]
    for batch in store.expressions(columns=columns).to_batches(max_chunksize=4096):
        for row in batch.to_pylist():
            if row["ref_id"] in wanted:
                rows.setdefault(row["ref_id"], []).append(row)
    numbers = {image_id: number for number, image_id in enumerate(store.image_ids().to_pylist())}
    reader = RowReader(store.uri, RowGroups.of(store, store.image_files), ["image"], CACHE_BYTES)
    found = []
    for done, ref in enumerate(refs, start=1):
        first = rows[ref][0]
        data = reader.take(np.array([numbers[first["image_id"]]]))["image"][0].as_py()
        try:
            pixels = decode_image(data)
        except ImageError:
            picture = None
        else:
            picture = picture_of(pixels, None if first["no_target"] else rle.decode(first["target"]))
        what = "names nothing" if first["no_target"] else first["category"]
        note = " · ".join(filter(None, (first["split"], what, first["image_id"])))
        found.append(Cell(picture, [row["text"] for row in rows[ref]], note))
        if progress is not None:
            progress(done, len(refs))
    return found
