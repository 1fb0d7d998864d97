"""What the published data sets hold, and how a copy that holds something else is told."""

from pathlib import Path

import pytest

from mail.data.sets import DATA_SETS
from mail.data.sets.definition import Counts
from mail.errors import UserError

REFCOCO = DATA_SETS["refcoco"]


def test_published_counts_add_up():
    def total(name: str, split_by: str) -> int:
        return sum(counts.expressions or 0 for counts in DATA_SETS[name].published[split_by].values())

    assert total("refcoco", "unc") == 142210
    assert total("refcoco+", "unc") == 141564
    assert total("refcocog", "umd") == total("refcocog", "google") == 95010
    assert total("phrasecut", "") == 345486
    assert sum(counts.images or 0 for counts in DATA_SETS["phrasecut"].published[""].values()) == 77262


def test_differences_from_what_was_published_are_phrased():
    whole = {s: c._asdict() for s, c in REFCOCO.published["unc"].items()}
    assert REFCOCO.differences("unc", whole) == []
    del whole["testB"]
    whole["val"]["refs"] -= 1
    whole["test"] = whole["val"]
    assert REFCOCO.differences("unc", whole) == [
        "val has 3810 of 3811 refs",
        "testB is absent (1810 refs published)",
        "test is not a published split",
    ]


def test_unknown_numbers_are_not_compared_but_splits_are():
    found = {split: Counts(1, 2, 2000)._asdict() for split in ("train", "val", "testA", "testAB")}
    assert DATA_SETS["referit"].differences("unc", found) == ["testB is absent", "testC is absent"]
    found = {split: Counts(1, 2, 2000)._asdict() for split in ("train", "val", "testA", "testB", "testC", "testBC")}
    assert DATA_SETS["referit"].differences("unc", found) == []


def test_the_table_has_a_line_a_split(tmp_path: Path):
    lines = REFCOCO.table("google", {"val": Counts(5, 6, 7)._asdict()})
    assert [" ".join(line.split()) for line in lines[1:]] == [
        "train 0 / 40000 0 / ? 0 / 19213",
        "val 5 / 5000 6 / ? 7 / 4559",
        "test 0 / 5000 0 / ? 0 / 4527",
    ]


@pytest.mark.parametrize("name", DATA_SETS)
def test_a_folder_that_is_not_there_is_named(tmp_path: Path, name: str):
    split_by = next(iter(DATA_SETS[name].published))
    with pytest.raises(UserError, match=f"there is no folder {tmp_path}/no: --root is the one that holds .*{name}"):
        DATA_SETS[name].open(tmp_path / "no", split_by)
