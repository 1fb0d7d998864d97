"""Parquet schemas of the data store and the mask table, and the vocabulary of their columns."""

from collections.abc import Iterable

import pyarrow as pa

RLE_TYPE = pa.struct([("size", pa.list_(pa.int32())), ("counts", pa.binary())])

IMAGES = pa.schema(
    [
        ("image_id", pa.string()),  # "coco/520199"
        ("file_name", pa.string()),
        ("image", pa.binary()),  # the file's bytes, untouched
        ("height", pa.int32()),  # after EXIF rotation; the annotated size if the file cannot be decoded
        ("width", pa.int32()),
        ("sha256", pa.string()),
        # null where it cannot be decoded; stores of earlier versions lack these two (`mail.data.image_keys`)
        ("pixels", pa.string()),
        ("perceptual_hash", pa.uint64()),
    ]
)

IDENTITIES = ("image_id", "sha256", "pixels")
"""Any of these in common: two images are the same."""

IMAGE_KEYS = pa.schema([IMAGES.field(name) for name in (*IDENTITIES, "perceptual_hash")])

EXPRESSIONS = pa.schema(
    [
        ("expr_id", pa.string()),  # "refcoco-unc/15214": data set, split_by, sent_id
        ("ref_id", pa.string()),
        ("image_id", pa.string()),
        ("split", pa.string()),
        ("text", pa.string()),  # as published
        ("target", RLE_TYPE),  # union of the referent's annotations, original resolution
        ("no_target", pa.bool_()),
        ("ann_ids", pa.list_(pa.int64())),
        ("category", pa.string()),
    ]
)

INSTANCE_TYPE = pa.struct(
    [
        ("score", pa.float32()),
        ("label", pa.int32()),
        ("bbox", pa.list_(pa.float32())),  # x, y, width, height in pixels of the original image
        ("area", pa.float32()),
        ("rle", pa.binary()),  # COCO compressed counts; the size is the row's (height, width)
    ]
)

MASKS = pa.schema(
    [
        ("image_id", pa.string()),
        ("proposer_id", pa.string()),
        ("image_sha256", pa.string()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("status", pa.string()),  # "ok" or the reason why there are no instances
        ("error", pa.string()),
        ("instances", pa.list_(INSTANCE_TYPE)),
    ]
)

MASK_FILE = MASKS.remove(MASKS.get_field_index("proposer_id"))
"""A data file of the mask table: all its rows are of one proposer, which the table's log knows."""

STATUS_OK = "ok"
STATUS_DECODE_ERROR = "decode_error"
STATUS_TOO_LARGE = "too_large"
STATUS_PROPOSER_ERROR = "proposer_error"


SPLITS = ("train", "val", "test", "testA", "testB")
"""In the order in which everybody names them."""
PUBLISHED_SPLITS = (*SPLITS, "testC", "testAB", "testAC", "testBC", "testABC", "miniv")
"""The same with those of RefCLEF, where testAB is of both testA and testB, and of PhraseCut."""
_PLACES = {split: place for place, split in enumerate(PUBLISHED_SPLITS)}

VALIDATION_SPLIT = "val"  # a training looks at it as it goes, and chooses its best checkpoint by it


def is_evaluation_split(split: str) -> bool:
    """val, test, testA, testB and their like; everything that is not train."""
    return split != "train"


def in_order(splits: Iterable[str]) -> list[str]:
    """Splits as everybody names them: in the published order, others after that."""
    return sorted(splits, key=lambda split: (_PLACES.get(split, len(_PLACES)), split))


def single_splits(split: str) -> list[str]:
    """testA and testB of testAB, which is of both; a split alone of any other."""
    letters = split.removeprefix("test")
    return [f"test{letter}" for letter in letters] if letters != split and letters.isupper() else [split]
