"""A split's expressions as a few numbers each: what the order of training is made from.

Neither texts, nor targets, nor image bytes are read; a million expressions take 16 MB.
"""

from collections.abc import Collection
from dataclasses import dataclass
from itertools import count

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mail.data.row_groups import RowGroups
from mail.data.store import DataStore
from mail.errors import UserError


@dataclass(frozen=True)
class ExpressionIndex:
    """The keys of a split's expressions, as numbers: 16 bytes an expression, sorted by image and ref.

    Attributes:
        row: int64 (N,), the expression's row number in the store's expression files.
        image: int32 (N,), its image's row number in the store's image files.
        ref: int32 (N,), a number for its ref.
        image_groups: the row groups of the image files; `expression_groups` those of the expression files.
        skipped_images, skipped_expressions: how many were left out because their image cannot be used.
    """

    row: np.ndarray
    image: np.ndarray
    ref: np.ndarray
    image_groups: RowGroups
    expression_groups: RowGroups
    skipped_images: int = 0
    skipped_expressions: int = 0

    def __len__(self) -> int:
        return len(self.row)

    @classmethod
    def read(cls, store: DataStore, split: str, unusable: Collection[str] = ()) -> "ExpressionIndex":
        """Reads the key columns of a split (in batches; neither texts, nor targets, nor image bytes).

        Args:
            unusable: ids of images to leave out; those that cannot be decoded (height 0) are left out in any case.

        Raises:
            UserError: the store has no such split, or nothing is left of it.
        """
        store.check_split(split)
        image_ids, bad = _images(store, unusable)
        rows, images, refs = [np.zeros(0, np.int64)], [np.zeros(0, np.int32)], [np.zeros(0, np.int32)]
        first_row, new_ref = 0, count()
        open_refs: dict[str, int] = {}  # of the image that the last batch ended with: rows are sorted by image
        for file in store.expression_files:
            for batch in store.open(file).batches(["image_id", "ref_id", "split"], batch_size=65536):
                keep = np.flatnonzero(pc.equal(batch["split"], split).to_numpy(zero_copy_only=False))
                if len(keep):
                    kept = batch.take(pa.array(keep))
                    coded = kept["ref_id"].dictionary_encode()
                    known = coded.dictionary.to_pylist()
                    numbers = {r: open_refs[r] if r in open_refs else next(new_ref) for r in known}
                    rows.append(first_row + keep)
                    images.append(pc.index_in(kept["image_id"], image_ids).to_numpy())
                    refs.append(np.fromiter(numbers.values(), np.int32)[coded.indices.to_numpy()])
                    last = pc.equal(kept["image_id"], kept["image_id"][-1])
                    open_refs = {r: numbers[r] for r in pc.unique(kept["ref_id"].filter(last)).to_pylist()}
                first_row += len(batch)
        row, image, ref = (np.concatenate(a) for a in (rows, images, refs))
        usable = ~bad[image]
        if not usable.any():
            raise UserError(f"split {split!r} of {store.uri} has no expression whose image can be used")
        skipped = image[~usable]
        row, image, ref = row[usable], image[usable], ref[usable]
        order = np.lexsort((row, ref, image))
        return cls(
            row[order],
            image[order],
            ref[order],
            RowGroups.of(store, store.image_files),
            RowGroups.of(store, store.expression_files),
            len(np.unique(skipped)),
            len(skipped),
        )


def _images(store: DataStore, unusable: Collection[str]) -> tuple[pa.Array, np.ndarray]:
    """Ids of all images in row order, and which of them cannot be used."""
    batches = list(store.images(["image_id", "height"], batch_size=65536))
    table = pa.Table.from_batches(batches) if batches else pa.table({"image_id": pa.array([], pa.string())})
    if not len(table):
        raise UserError(f"{store.uri} holds no images")
    named = pc.is_in(table["image_id"], pa.array(sorted(unusable), pa.string()))
    bad = pc.or_(pc.equal(table["height"], 0), named).to_numpy()
    return table["image_id"].combine_chunks(), bad
