"""A mirror in Parquet form gives the store that the published pickles give, to the last byte of every row."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mail.data import restricted_pickle
from mail.data.sets import DATA_SETS
from mail.data.store import DataStore
from mail.errors import UserError
from pipelines.__main__ import main
from tests.mail.data.sets.test_referit import ReferIt
from tests.published import Published

MINI = Path(__file__).resolve().parents[5] / "shared/data/refcoco_mini"
HUB_SPLITS = {"val": "validation", "testA": "test"}  # as the hub's own splits are called


def as_published(root: Path, dataset: str, split_by: str, splits: tuple[str, ...]) -> Published:
    data = Published(root, dataset=dataset, split_by=split_by, splits=splits)
    data.instances["categories"] = [{"id": 1, "name": "person"}, {"id": 2, "name": "bicycle"}]
    return data.write()


def write_references(folder: Path, refs: list[dict], instances: dict) -> None:
    """As jxu124/refcoco and its like: a file a split, a row a reference."""
    folder.mkdir(parents=True)
    annotations = {a["id"]: a for a in instances["annotations"]}
    images = {i["id"]: i for i in instances["images"]}
    for split in {ref["split"] for ref in refs}:
        rows = [
            {key: ref[key] for key in ("sent_ids", "ann_id", "ref_id", "image_id", "split", "sentences", "category_id")}
            | {"file_name": f"COCO_train2014_{ref['image_id']:012d}_0.jpg", "captions": ["a photo"]}
            | {"raw_anns": json.dumps(annotations[ref["ann_id"]])}
            | {"raw_image_info": json.dumps(images[ref["image_id"]])}
            for ref in refs
            if ref["split"] == split
        ]
        name = f"{HUB_SPLITS.get(split, split)}-00000-of-00001-0026a9046a1edcf9.parquet"
        pq.write_table(pa.Table.from_pylist(rows), folder / name)


def write_benchmark(folder: Path, prefix: str, refs: list[dict], instances: dict) -> None:
    """As jxu124/refcoco-benchmark: a file a split of several data sets, a row a photo."""
    folder.mkdir(parents=True, exist_ok=True)
    annotations = {a["id"]: a for a in instances["annotations"]}
    for split in {ref["split"] for ref in refs} - {"train"}:
        rows = []
        for image in instances["images"]:
            own = [ref for ref in refs if (ref["image_id"], ref["split"]) == (image["id"], split)]
            listed = [{"ann_info": annotations[r["ann_id"]], "ref_info": r, "image_info": image} for r in own]
            rows += [{"ref_list": listed, "image": {"bytes": b"not read", "path": None}}] if own else []
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{prefix}_{split}-00000-of-00001-0a.parquet")


def prepared(name: str, split_by: str, root: Path, images: Path, out: Path) -> DataStore:
    arguments = ["--split-by", split_by, "--root", str(root), "--images", str(images), "--out", str(out)]
    assert main(["prepare", name, *arguments]) == 0
    return DataStore(out)


@pytest.mark.parametrize(
    ("name", "split_by", "splits"),
    [
        ("refcoco", "unc", ("train", "val", "testA", "testB")),
        ("refcoco+", "unc", ("train", "val", "testA", "testB")),
        ("refcocog", "umd", ("train", "val", "test")),
    ],
)
def test_a_mirror_gives_the_same_store(tmp_path, capsys, name, split_by, splits):
    data = as_published(tmp_path / "refer", name, split_by, splits)
    write_references(tmp_path / "hub/data", data.refs, data.instances)
    arguments = name, split_by
    ours = prepared(*arguments, tmp_path / "refer", data.images_folder, tmp_path / "a")
    theirs = prepared(*arguments, tmp_path / "hub", data.images_folder, tmp_path / "b")
    assert theirs.expressions().to_pylist() == ours.expressions().to_pylist()
    assert theirs.digest == ours.digest
    assert "read from a mirror in Parquet form" in capsys.readouterr().err
    sources = [source["path"] for source in theirs.manifest["sources"]]
    assert len(sources) == len(splits)
    assert all(path.endswith(".parquet") for path in sources)


def test_splits_under_the_hubs_names_are_the_published_ones(tmp_path):
    data = as_published(tmp_path / "refer", "refcoco", "unc", ("train", "val", "testA", "testB"))
    refs = [ref | {"split": HUB_SPLITS.get(ref["split"], ref["split"])} for ref in data.refs]
    write_references(tmp_path / "hub", refs, data.instances)
    ours = prepared("refcoco", "unc", tmp_path / "refer", data.images_folder, tmp_path / "a")
    assert prepared("refcoco", "unc", tmp_path / "hub", data.images_folder, tmp_path / "b").digest == ours.digest


def test_one_file_is_a_root_and_finds_the_photos_beside_it(tmp_path):
    data = as_published(tmp_path, "refcoco", "unc", ("val", "testB"))
    write_references(tmp_path / "hub", data.refs, data.instances)
    [file] = (tmp_path / "hub").glob("testB*")
    file.rename(tmp_path / "testB.parquet")
    out = tmp_path / "store"
    assert main(["prepare", "refcoco", "--root", str(tmp_path / "testB.parquet"), "--out", str(out)]) == 0
    assert list(DataStore(out).splits) == ["testB"]


def test_a_benchmark_holds_several_data_sets_and_gives_the_evaluation_splits(tmp_path):
    plain = as_published(tmp_path / "refer", "refcoco", "unc", ("train", "val", "testA", "testB"))
    plus = as_published(tmp_path / "refer", "refcoco+", "unc", ("val", "testA", "testB", "train"))
    write_benchmark(tmp_path / "hub", "refcoco_unc", plain.refs, plain.instances)
    write_benchmark(tmp_path / "hub", "refcoco_plus_unc", plus.refs, plus.instances)
    for name in ("refcoco", "refcoco+"):
        ours = prepared(name, "unc", tmp_path / "refer", plain.images_folder, tmp_path / f"{name}-a")
        theirs = prepared(name, "unc", tmp_path / "hub", plain.images_folder, tmp_path / f"{name}-b")
        splits = ["val", "testA", "testB"]
        assert theirs.expressions().to_pylist() == ours.expressions(splits).to_pylist()


def test_referits_benchmark_gives_the_same_but_for_the_categories(tmp_path, capsys):
    data = ReferIt(tmp_path / "refer").write()
    write_benchmark(tmp_path / "hub", "refclef_berkeley", data.refs, data.instances)
    images = tmp_path / "refer/images/saiapr_tc-12"
    ours = prepared("referit", "berkeley", tmp_path / "refer", images, tmp_path / "a")
    theirs = prepared("referit", "berkeley", tmp_path / "hub", images, tmp_path / "b")
    assert "does not name categories: they are left empty" in capsys.readouterr().err
    rows = [row | {"category": ""} for row in ours.expressions(["val", "test"]).to_pylist()]
    assert theirs.expressions().to_pylist() == rows


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"question_id": "1", "answer": ["a"]}], "has the columns question_id, answer: without the ids of references"),
        ([{"ref_list": [{"ref_info": None, "ann_info": None, "image_info": None}]}], "reference 1 is not as the"),
    ],
)
def test_a_mirror_of_another_form_is_refused(tmp_path, rows, message):
    data = as_published(tmp_path, "refcoco", "unc", ("val",))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "val.parquet")
    with pytest.raises(UserError, match=message):
        DATA_SETS["refcoco"].open(tmp_path / "val.parquet", "unc", data.images_folder)


def test_a_mirror_of_anothers_split_and_a_damaged_one_are_refused(tmp_path):
    data = as_published(tmp_path / "refer", "refcoco", "unc", ("val",))
    write_references(tmp_path / "hub", data.refs, data.instances)
    with pytest.raises(UserError, match="has the references of the split unc, not of google"):
        DATA_SETS["refcoco"].open(tmp_path / "hub", "google", data.images_folder)
    [file] = (tmp_path / "hub").iterdir()
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(UserError, match="is damaged"):
        DATA_SETS["refcoco"].open(tmp_path / "hub", "unc", data.images_folder)
    data.refs[0]["ann_id"] = "x"
    damaged = [data.refs[0] | {"raw_anns": "[}", "raw_image_info": "{}"}]
    pq.write_table(pa.Table.from_pylist(damaged), file)
    with pytest.raises(UserError, match="reference 1 is not as the mirrors have it: this is not JSON"):
        DATA_SETS["refcoco"].open(tmp_path / "hub", "unc", data.images_folder)


@pytest.mark.skipif(not MINI.exists(), reason="needs shared/data/refcoco_mini beside the checkout")
@pytest.mark.parametrize(("name", "split_by"), [("refcoco", "unc"), ("refcocog", "google")])
def test_real_references_give_the_same_store(tmp_path, name, split_by):
    refs = restricted_pickle.load(MINI / name / f"refs({split_by}).p")
    instances = json.loads((MINI / name / "instances.json").read_text())
    write_benchmark(tmp_path / "hub", f"{name}_{split_by}", refs, instances)
    images = MINI / "images/train2014"
    ours = prepared(name, split_by, MINI, images, tmp_path / "a")
    assert prepared(name, split_by, tmp_path / "hub", images, tmp_path / "b").digest == ours.digest
