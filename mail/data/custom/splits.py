"""Draws the split of photos that a file gives none for: by photo, never by sentence, whatever order the lines are in.

Photos are ordered by a hash of the seed and of what they show, and cut where the shares say. So the same photos are
drawn alike under any names, photos of the same content fall together, and a few more photos move but a few others.
"""

import hashlib
from collections.abc import Mapping

from mail.data.image_keys import ImageContent
from mail.data.schema import SPLITS
from mail.data.typed import number
from mail.errors import UserError

DEFAULT = "train=.8,val=.1,test=.1"


def shares_of(text: str) -> dict[str, float]:
    """The shares in `train=.8,val=.1,test=.1`, which add up to 1; UserError says what is wrong with them."""
    shares: dict[str, float] = {}
    for part in text.split(","):
        split, _, share = (word.strip() for word in part.partition("="))
        try:
            value = number(f"0{share}" if share.startswith(".") else share, split)
        except ValueError:
            value = -1
        if split not in SPLITS or split in shares or not 0 < value <= 1:
            raise UserError(f"--splits {text}: {part!r} is no share of a split: write it as {DEFAULT}")
        shares[split] = value
    if abs(sum(shares.values()) - 1) > 1e-6:
        raise UserError(f"--splits {text}: the shares add up to {sum(shares.values()):g}, not to 1")
    return shares


def content_key(content: ImageContent) -> str:
    """What all photos of the same content share: the digest of their pixels, or of a file that cannot be decoded."""
    return content.pixels or content.sha256


def draw(groups: set[str], shares: Mapping[str, float], seed: int) -> dict[str, str]:
    """By group of photos (`content_key`), its split: as many of each as the shares say, one at least if there are."""
    ordered = sorted(groups, key=lambda group: hashlib.sha256(f"{seed} {group}".encode()).digest())
    counts = _counts(len(ordered), shares)
    splits = [split for split in shares for _ in range(counts[split])]
    return dict(zip(ordered, splits, strict=True))


def _counts(total: int, shares: Mapping[str, float]) -> dict[str, int]:
    """Whole numbers that add up to `total`: the largest remainders are rounded up."""
    counts = {split: int(total * share + 1e-9) for split, share in shares.items()}
    rest = sorted(shares, key=lambda split: counts[split] - total * shares[split])
    for split in rest[: total - sum(counts.values())]:
        counts[split] += 1
    for split in shares:
        most = max(counts, key=lambda other: counts[other])
        if counts[split] == 0 and counts[most] > 1:
            counts[split], counts[most] = 1, counts[most] - 1
    return counts
