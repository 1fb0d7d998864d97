"""What the published data sets contain, per split, so that `prepare` can tell a complete copy from a damaged one.

Numbers of refs and images: TensorFlow Datasets, `ref_coco` catalogue page (made from the same `refs(*.p)` files).
Numbers of expressions: RefCOCO and RefCOCO+ (UNC) as the REFER tool and the papers that use it report them (142,210 and
141,564 in all); RefCOCOg (UMD) 95,010 in all; RefCOCOg (Google) 85,474 + 9,536 = 95,010. Where no source could be found
the number is left out (None) and not compared: expressions of RefCOCO (Google).
"""

from collections.abc import Mapping
from typing import NamedTuple


class Counts(NamedTuple):
    """Size of a split; None where no published number is known."""

    refs: int | None
    expressions: int | None
    images: int | None


PUBLISHED: dict[tuple[str, str], dict[str, Counts]] = {
    ("refcoco", "unc"): {
        "train": Counts(42404, 120624, 16994),
        "val": Counts(3811, 10834, 1500),
        "testA": Counts(1975, 5657, 750),
        "testB": Counts(1810, 5095, 750),
    },
    ("refcoco", "google"): {
        "train": Counts(40000, None, 19213),
        "val": Counts(5000, None, 4559),
        "test": Counts(5000, None, 4527),
    },
    ("refcoco+", "unc"): {
        "train": Counts(42278, 120191, 16992),
        "val": Counts(3805, 10758, 1500),
        "testA": Counts(1975, 5726, 750),
        "testB": Counts(1798, 4889, 750),
    },
    ("refcocog", "umd"): {
        "train": Counts(42226, 80512, 21899),
        "val": Counts(2573, 4896, 1300),
        "test": Counts(5023, 9602, 2600),
    },
    ("refcocog", "google"): {
        "train": Counts(44822, 85474, 24698),
        "val": Counts(5000, 9536, 4650),
    },
}


def differences(dataset: str, split_by: str, found: Mapping[str, Mapping[str, int]]) -> list[str]:
    """One short phrase per split that differs from what was published; empty if nothing does or nothing is known.

    Args:
        found: per split the number of `refs`, `expressions` and `images`.
    """
    published = PUBLISHED.get((dataset, split_by), {})
    out = []
    for split, counts in published.items():
        if split not in found:
            out.append(f"{split} is absent ({counts.refs} refs published)")
            continue
        wrong = [
            f"{found[split][kind]} of {number} {kind}"
            for kind, number in counts._asdict().items()
            if number is not None and found[split][kind] != number
        ]
        if wrong:
            out.append(f"{split} has {', '.join(wrong)}")
    if published:
        out += [f"{split} is not a published split" for split in found if split not in published]
    return out
