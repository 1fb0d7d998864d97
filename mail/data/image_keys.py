"""What an image is known by, whatever it is called: its id, its file's bytes, its pixels, and roughly what it shows.

The same photo comes under other ids, in other files and recompressed. Three of these keys say that two images are one
(`mail.leakage` compares them); the fourth, a perceptual hash, only that they look alike.

Several images are a table with the columns of `schema.IMAGE_KEYS`. What is not known of an image is null there: the
digests where somebody listed ids, those of the pixels where the file cannot be decoded or an earlier version took them
(as sha256, which takes as long as decoding where a processor has no instructions for it).
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from blake3 import blake3
from PIL import Image

from mail.data import schema

REDUCED = 64  # pixels along the shorter side are enough for 8 x 8 comparisons
OF_PIXELS = "blake3:"  # begins a digest of pixels
FLAT = 8  # a picture with fewer of the 64 bits set has nothing in it to be recognised by
ALIKE = 6  # bits: of 520 COCO photos any two differ in 9 or more; one recompressed or at half of its size in 6 at most


class ImageContent(NamedTuple):
    """What is known of an image's content; in the order of the columns.

    Attributes:
        sha256: of the file's bytes.
        pixels: digest of height, width and the RGB pixels, as `images.upright_rgb` gives them.
        perceptual_hash: 64 bits, whether it grows lighter from place to place; None if it shows nothing (one colour).
    """

    sha256: str
    pixels: str | None = None
    perceptual_hash: int | None = None

    @classmethod
    def of(cls, data: bytes, picture: Image.Image | None = None) -> "ImageContent":
        """Of a file's bytes and, where it can be decoded, its picture as `upright_rgb` gives it."""
        sha256 = hashlib.sha256(data).hexdigest()
        if picture is None:
            return cls(sha256)
        content = blake3(f"{picture.height} {picture.width} ".encode()).update(picture.tobytes())
        return cls(sha256, OF_PIXELS + content.hexdigest(), perceptual_hash(picture))


def perceptual_hash(picture: Image.Image) -> int | None:
    """dHash of an RGB picture; None if it shows nothing.

    pHash tells photos apart a little better (the nearest of 520 by 12 bits instead of 9) at five times the time.
    """
    import imagehash  # a machine that only trains does without

    bits = imagehash.dhash(picture.reduce(max(1, min(picture.size) // REDUCED))).hash
    value = int.from_bytes(np.packbits(bits).tobytes(), "big")
    return value if FLAT <= value.bit_count() <= 64 - FLAT else None


def keys_of(images: pa.Table | Iterable[str | Sequence[Any]]) -> pa.Table:
    """A table of keys from one, or from entries: ids alone, or lists (id, sha256, pixels, perceptual_hash)."""
    if isinstance(images, pa.Table):
        return images.select(schema.IMAGE_KEYS.names)
    rows = [(e, None, None, None) if isinstance(e, str) else tuple(e) for e in images]
    rows = [(i, file, p if p and p.startswith(OF_PIXELS) else None, looks) for i, file, p, looks in rows]
    return pa.Table.from_pylist(
        [dict(zip(schema.IMAGE_KEYS.names, row, strict=True)) for row in rows], schema.IMAGE_KEYS
    )


def entries_of(keys: pa.Table) -> list[str | list[Any]]:
    """The same ready for JSON, sorted, each image once."""
    rows = set(zip(*(keys[name].to_pylist() for name in schema.IMAGE_KEYS.names), strict=True))
    known = {row[0] for row in rows if any(row[1:])}
    listed: list[str | list[Any]] = [list(row) if any(row[1:]) else row[0] for row in sorted(rows, key=str)]
    return [entry for entry in listed if not isinstance(entry, str) or entry not in known]


def identities(keys: pa.Table) -> set[str]:
    """All ids and digests of some images: one in common says that two images are the same."""
    return {key for name in schema.IDENTITIES for key in keys[name].to_pylist() if key is not None}


def alike(first: pa.Table, second: pa.Table) -> Iterator[tuple[str, str]]:
    """Pairs of ids, of images that look alike though no key says that they are the same."""
    first, second = (t.filter(t["perceptual_hash"].is_valid()) for t in (first, second))
    if not len(first):
        return
    hashes = first["perceptual_hash"].to_numpy()
    names = first.select(list(schema.IDENTITIES))
    for row in second.to_pylist():
        near = np.flatnonzero(np.bitwise_count(hashes ^ np.uint64(row["perceptual_hash"])) <= ALIKE)
        for other in names.take(pa.array(near)).to_pylist() if len(near) else ():
            if not any(other[key] is not None and other[key] == row[key] for key in schema.IDENTITIES):
                yield other["image_id"], row["image_id"]
