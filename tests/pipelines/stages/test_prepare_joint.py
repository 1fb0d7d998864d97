"""`prepare refcoco-joint`: what any of the three evaluates on is trained on by none of them."""

from pathlib import Path

from mail.data.store import DataStore
from mail.leakage import overlaps
from pipelines.__main__ import main
from tests.published import Published

SETS = {
    "refcoco": ("unc", ("train", "train", "val", "testA", "testB")),
    "refcoco+": ("unc", ("train", "val", "train", "testA", "testB")),
    "refcocog": ("umd", ("train", "train", "train", "train", "test")),
}


def write(root: Path) -> None:
    for dataset, (split_by, splits) in SETS.items():
        Published(root, dataset=dataset, split_by=split_by, splits=splits).write()


def joint(root: Path, out: Path, *more: str) -> int:
    return main(["prepare", "refcoco-joint", "--root", str(root), "--out", str(out), *more])


def test_evaluation_images_of_any_are_trained_on_by_none(tmp_path, capsys):
    write(tmp_path / "refer")
    assert joint(tmp_path / "refer", tmp_path / "joint") == 0
    store = DataStore(tmp_path / "joint")
    assert store.name == "refcoco-joint"
    assert {row["image_id"] for row in store.expressions(["train"]).to_pylist()} == {"coco/1"}
    trained = store.image_keys(["train"])["train"]
    parts = [DataStore(tmp_path / "joint-parts" / name) for name in ("refcoco-unc", "refcoco+-unc", "refcocog-umd")]
    assert all(overlaps(trained, part) == {} for part in [store, *parts])
    assert sum(split["expressions"] for split in store.splits.values()) == 2 * (3 + 3 + 1 + 5 - 2 - 0)
    err = capsys.readouterr().err
    assert "left out: 2 training expressions of refcocog-umd on 1 images of refcoco-unc val" in err
    assert "not what was published: train has 2 of 42404 refs" in err


def test_stores_that_are_there_are_used(tmp_path, capsys):
    write(tmp_path / "refer")
    assert joint(tmp_path / "refer", tmp_path / "first") == 0
    capsys.readouterr()
    assert joint(tmp_path / "refer", tmp_path / "second", "--parts", str(tmp_path / "first-parts")) == 0
    assert "refcoco+-unc is there already" in capsys.readouterr().err
    assert DataStore(tmp_path / "second").digest == DataStore(tmp_path / "first").digest


def test_strict_refuses_before_anything_is_written(tmp_path, capsys):
    write(tmp_path / "refer")
    assert joint(tmp_path / "refer", tmp_path / "joint", "--strict") == 2
    assert "is not what was published" in capsys.readouterr().err
    assert not (tmp_path / "joint").exists()
    assert not (tmp_path / "joint-parts/refcoco-unc/store.json").exists()


def test_dry_run_says_what_would_be_prepared(tmp_path, capsys):
    write(tmp_path / "refer")
    assert joint(tmp_path / "refer", tmp_path / "joint", "--dry-run") == 0
    assert '"refcocog-umd": {' in capsys.readouterr().out
    assert not (tmp_path / "joint-parts").exists()
