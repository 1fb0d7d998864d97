"""Every ingredient of a model is compared with every evaluation split; what was recorded earlier is read."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from mail import lineage
from mail.audit import as_text, audit, stores_of
from mail.data.mask_table import MaskTable
from mail.data.origins import Origin
from mail.data.store import DataStore
from mail.errors import UserError
from mail.ingredients import ingredients
from mail.leakage import check_evaluation, check_model
from tests.boxes import Boxes, make_boxes
from tests.mail.test_leakage import photos_store, picture, saved


@pytest.fixture
def own(tmp_path: Path) -> DataStore:
    """Two photos to train on; of those that are evaluated on, a/3 is p/3 of `parents`."""
    photos = {n: ("train" if n < 3 else "val" if n < 5 else "testA", saved(picture(n))) for n in range(1, 7)}
    return photos_store(tmp_path, "own", {f"a/{n}": photo for n, photo in photos.items()})


@pytest.fixture
def parents(tmp_path: Path) -> DataStore:
    photos = {"p/3": ("train", saved(picture(3))), "p/7": ("val", saved(picture(7)))}
    return photos_store(tmp_path, "parents", photos)


def record(store: DataStore, **others: Any) -> dict[str, Any]:
    source = {"uri": store.uri, "name": store.name, "digest": store.digest}
    return {"data_store": source, "config": {"split": "train"}, "leaky": False, "leaks": [], **others}


def masks_of(folder: Path, seen: Origin, summary: Any = None) -> dict[str, Any]:
    """What a lineage holds of a proposer, and a table that knows what it saw."""
    MaskTable(folder).register_origin("p-1", seen)
    table = {"uri": str(folder), "proposer_id": "p-1"}
    return {"mask_table": table, "proposer": {"id": "p-1", "trained_on": summary or seen.summary}}


def verdicts(found: Mapping[str, Any], store: int = 0) -> dict[str, list[str]]:
    rows: dict[str, list[str]] = {}
    for overlap in found["data_stores"][store]["overlaps"]:
        rows.setdefault(overlap["ingredient"], []).append(overlap["verdict"])
    return rows


def test_a_child_has_seen_what_its_parents_and_their_proposer_saw(
    own: DataStore, parents: DataStore, tmp_path: Path
) -> None:
    of_parent = masks_of(tmp_path / "masks", Origin.of(collections=["a/*"]))
    encoder = {"config": {"split": "train", "pretrained": "dandelin/vilt-b32-mlm"}}
    child = record(own, parent=record(parents, **of_parent, **encoder))
    stores, missing = stores_of(child)
    found = audit(child, stores)
    assert ([s.name for s in stores], missing) == (["own", "parents"], [])
    assert verdicts(found) == {
        "training data own train": ["clean", "clean"],
        "parent's training data parents train": ["clean", "1 of 2"],
        "parent's proposer p-1": ["2 of 2", "2 of 2"],
        "parent's pre-trained encoder dandelin/vilt-b32-mlm": ["clean", "clean"],
    }
    assert verdicts(found, 1)["parent's training data parents train"] == ["clean"]
    text = as_text(found, "child").splitlines()
    assert text[0] == "child: LEAKY"
    assert text[3].split() == ["ingredient", "testA", "val", "saw"]
    assert text[7].endswith("without masks: coco/train2014, visual-genome, sbu-captions, conceptual-captions")
    assert text[8].split() == ["all", "together", "LEAKY", "LEAKY"]
    with pytest.raises(UserError, match=r"parent was trained on images .* of own: 1 of 2 of val \(first: a/3\)"):
        check_model(child, own, "val")
    labelled = check_model(child, own, "testA")
    assert [(o.ingredient, o.images, o.of) for o in labelled.overlaps] == [("parent's proposer p-1", 2, 2)]
    grandchild = record(parents, parent=child)
    assert "parent's parent's proposer p-1" in verdicts(audit(grandchild, [own]))


def test_leaky_is_decided_for_each_split(own: DataStore, tmp_path: Path) -> None:
    trained = record(own, **masks_of(tmp_path / "masks", Origin.of(["a/5"]))) | {"leaky": True}
    trained["leaks"] = [{"ingredient": "proposer p-1", "split": "testA", "images": 1, "of": 2}]
    assert not check_model(trained, own, "val").leaky
    assert check_model(trained, own, "testA").leaky
    # a model of an earlier version says that it is leaky, not on what
    del trained["leaks"]
    assert check_model(trained, own, "val").leaky


def test_records_of_earlier_versions_are_read(own: DataStore, tmp_path: Path) -> None:
    """A proposer by count and digest of its images alone; the list was in the mask table, or is gone."""
    seen = Origin.of(["a/3"])
    old = record(own, **masks_of(tmp_path / "masks", seen, {"count": 1, "digest": seen.digest}))
    assert [str(part.origin) for part in ingredients(old, own)] == ["2 listed images", "1 listed images"]
    assert lineage.gaps(old | {"run_id": "r", "code_version": "c"}) == [
        "source files of the data store",
        "mask-table version",
    ]
    shutil.rmtree(tmp_path / "masks")
    (_, gone) = ingredients(old, own)
    assert gone.gone.startswith("1 images, whose list is not at ")
    assert verdicts(audit(old, [own]))["proposer p-1"] == ["unknown", "unknown"]
    # a collection needs no list
    whole = Origin.of(collections=["coco/train2017"]).summary
    old["proposer"]["trained_on"] = whole
    assert verdicts(audit(old, [own]))["proposer p-1"] == ["clean", "clean"]


@pytest.fixture(scope="module")
def boxes(tmp_path_factory: pytest.TempPathFactory) -> Boxes:
    return make_boxes(tmp_path_factory.mktemp("boxes"), images=8)


@pytest.mark.parametrize(
    ("seen", "gaps", "refused"),
    [
        (Origin.of(collections=["coco/train2017"]), [], ""),
        (Origin.of(collections=["boxes/*"]), [], r"1 of 1 of val \(first: boxes/0003\); it saw boxes/\*"),
        (Origin.of(None), [lineage.SEEN], "nobody knows which images proposer boxes-0123456789ab was trained on"),
    ],
)
def test_a_declared_origin_is_a_whole_link_and_an_unknown_one_is_none(
    boxes: Boxes, tmp_path: Path, seen: Origin, gaps: list[str], refused: str
) -> None:
    table = MaskTable(tmp_path / "masks")
    shutil.copytree(boxes.masks_uri, table.root, ignore=shutil.ignore_patterns("_proposers"))
    table.register_origin(boxes.masks.proposer_id, seen)
    snapshot = table.snapshot()
    snapshot.proposer["trained_on"] = seen.summary
    whole = lineage.of_training(boxes.store, snapshot, {"name": "x"}, "run", leaky=False)
    assert lineage.gaps(whole) == gaps
    assert lineage.broken_links(whole) == {}
    if not refused:
        found = check_evaluation(whole, boxes.store, "val", snapshot)
        assert not found.leaky
        return
    with pytest.raises(UserError, match=refused):
        check_evaluation(whole, boxes.store, "val", snapshot)
    allowed = check_evaluation(whole, boxes.store, "val", snapshot, allow_leaky=True)
    assert [(o.ingredient, o.split, o.of) for o in allowed.overlaps] == [("proposer boxes-0123456789ab", "val", 1)]
