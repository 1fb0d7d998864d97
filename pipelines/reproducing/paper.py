"""The table of MaIL (Li et al. 2021, arXiv 2111.10747, table 1): overall IoU by data set and split, in points.

The published list has a row "RefCOCOg val" without a figure beside the three of G-Ref: it is UMD's.
"""

from dataclasses import dataclass

from mail.data.sets import DATA_SETS
from mail.errors import UserError


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        name: as the paper writes it. data_set, split_by, split: what it is counted on.
        paper: the published overall IoU in points, None where there is none.
    """

    name: str
    data_set: str
    split_by: str
    split: str
    paper: float | None = None

    @property
    def part(self) -> str:
        """The data store that it is of, whose train split its network is trained on."""
        return f"{self.data_set}-{self.split_by}"

    @property
    def key(self) -> str:
        """On the command line."""
        return f"{self.part}/{self.split}" if self.paper is not None else f"{self.data_set}/{self.split}"


ROWS = (
    Row("RefCOCO val", "refcoco", "unc", "val", 70.13),
    Row("RefCOCO testA", "refcoco", "unc", "testA", 71.71),
    Row("RefCOCO testB", "refcoco", "unc", "testB", 66.92),
    Row("RefCOCO+ val", "refcoco+", "unc", "val", 62.23),
    Row("RefCOCO+ testA", "refcoco+", "unc", "testA", 65.92),
    Row("RefCOCO+ testB", "refcoco+", "unc", "testB", 56.06),
    Row("G-Ref UMD val", "refcocog", "umd", "val", 62.45),
    Row("G-Ref UMD test", "refcocog", "umd", "test", 62.87),
    Row("G-Ref Google val", "refcocog", "google", "val", 61.81),
    Row("RefCOCOg val (UMD)", "refcocog", "umd", "val"),
)
DATA = tuple(dict.fromkeys(row.data_set for row in ROWS))
PART_OF = {row.key: row.part for row in ROWS}
SHARED_PHOTOS = "refcocog-google"
"""Google's split divides objects, not photos: a photo of val may be one of train, so its figure is labelled leaky."""


def chosen(keys: tuple[str, ...]) -> tuple[Row, ...]:
    """The rows of these keys, all if there are none. Raises UserError for a key that is none."""
    known = {row.key: row for row in ROWS}
    if unknown := [key for key in keys if key not in known]:
        raise UserError(f"--rows {unknown[0]}: the table has {', '.join(known)}")
    return tuple(row for row in ROWS if not keys or row.key in keys)


def parts(rows: tuple[Row, ...]) -> dict[str, Row]:
    """One row of each data store that is needed, by its name."""
    return {row.part: row for row in rows}


def images_of(row: Row) -> int:
    """Photos of a row's data store, as published; those that are in two splits count twice."""
    return sum(counts.images or 0 for counts in DATA_SETS[row.data_set].published[row.split_by].values())
