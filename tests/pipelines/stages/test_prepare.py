"""`prepare` as people start it: through the command line, in this process."""

import dataclasses
import json
import os
import pickle
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import tyro

from mail import rle
from mail.data.custom import FORMATS
from mail.data.sets import DATA_SETS
from mail.data.sets.definition import Counts
from mail.data.store import DataStore
from mail.metrics import write_predictions
from mail.metrics.predictions import Prediction
from pipelines.__main__ import main
from pipelines.claiming.claim import Claim
from pipelines.stages.prepare import PREPARE
from pipelines.stages.prepare.custom import FormatName
from pipelines.stages.prepare.published import stage_of
from tests.published import Published

MINI = Path(__file__).resolve().parents[4] / "shared/data/refcoco_mini"


def prepare(*arguments: object) -> int:
    return main(["prepare", *map(str, arguments)])


@pytest.mark.parametrize(
    ("dataset", "split_by", "splits"),
    [
        ("refcoco", "unc", ("train", "val", "testA", "testB")),
        ("refcoco", "google", ("train", "val", "test")),
        ("refcoco+", "unc", ("train", "val", "testA", "testB")),
        ("refcocog", "umd", ("train", "val", "test")),
        ("refcocog", "google", ("train", "val")),
        ("grefcoco", "unc", ("train", "val", "testA", "testB")),
    ],
)
def test_every_published_set_becomes_a_store(tmp_path, capsys, dataset, split_by, splits):
    Published(tmp_path, dataset=dataset, split_by=split_by, splits=splits).write()
    assert prepare(dataset, "--split-by", split_by, "--root", tmp_path, "--out", tmp_path / "store") == 0
    store = DataStore(tmp_path / "store")
    assert store.name == f"{dataset}-{split_by}"
    assert set(store.splits) == set(splits)
    assert store.manifest["prepared_with"]["split_by"] == split_by
    out, _ = capsys.readouterr()
    assert out.count("\n") == 1
    assert f"{dataset}-{split_by}, {len(splits)} images" in out


def test_a_description_alone_makes_a_data_set_a_stage(tmp_path, capsys):
    described = dataclasses.replace(
        DATA_SETS["refcoco"], name="mine", about="Mine.", published={"unc": {"val": Counts(1, 2, 1)}, "me": {}}
    )
    stage = stage_of(described)
    with pytest.raises(SystemExit):
        tyro.cli(stage, args=["--help"])
    out = capsys.readouterr().out
    assert "Mine." in out
    assert "Whose split: unc (val) or me ()." in " ".join(out.replace("│", " ").split())
    Published(tmp_path, splits=("val",)).write()
    store = stage(root=tmp_path, out=str(tmp_path / "store"), strict=True).run()
    assert store.splits == {"val": {"refs": 1, "expressions": 2, "images": 1}}
    assert set(DATA_SETS) < set(PREPARE)


def test_counts_are_printed_beside_the_published_ones(tmp_path, capsys):
    Published(tmp_path).write()
    prepare("refcoco", "--root", tmp_path, "--out", tmp_path / "store")
    err = capsys.readouterr().err
    assert "1 / 3811" in err
    assert "not what was published: train has 1 of 42404 refs, 2 of 120624 expressions, 1 of 16994 images; val" in err


def test_strict_makes_a_difference_an_error_before_anything_is_written(tmp_path, capsys):
    Published(tmp_path).write()
    assert prepare("refcoco", "--root", tmp_path, "--out", tmp_path / "store", "--strict") == 2
    assert "error: " in capsys.readouterr().err
    assert not (tmp_path / "store").exists()


def test_dry_run_prints_the_plan_and_writes_nothing(tmp_path, capsys):
    Published(tmp_path).write()
    assert prepare("refcoco", "--root", tmp_path, "--out", tmp_path / "store", "--dry-run") == 0
    plan = json.loads(capsys.readouterr().out)["plan"]
    assert plan["name"] == "refcoco-unc"
    assert plan["splits"]["val"] == {"refs": 1, "expressions": 2, "images": 1}
    assert not (tmp_path / "store").exists()


def test_finished_store_is_not_overwritten(tmp_path, capsys):
    Published(tmp_path).write()
    arguments = "refcoco", "--root", tmp_path, "--out", tmp_path / "store"
    assert prepare(*arguments) == 0
    assert prepare(*arguments) == 2
    assert "already holds a data store" in capsys.readouterr().err


def test_a_store_that_another_process_writes_is_left_alone(tmp_path, capsys):
    Published(tmp_path).write()
    with Claim(tmp_path / "store", "the store", "another --out"):
        assert prepare("refcoco", "--root", tmp_path, "--out", tmp_path / "store") == 2
    assert "is being worked on by process" in capsys.readouterr().err
    assert not (tmp_path / "store").exists()


def test_malicious_pickle_runs_nothing_and_says_so(tmp_path, capsys):
    class Command:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'ran'}",)

    data = Published(tmp_path)
    data.write()
    data.refs_file.write_bytes(pickle.dumps([{**data.refs[0], "split": Command()}], protocol=2))
    assert prepare("refcoco", "--root", tmp_path, "--out", tmp_path / "store") == 2
    err = capsys.readouterr().err
    assert "refs(unc).p is refused: it asks for" in err
    assert "Traceback" not in err
    assert not (tmp_path / "ran").exists()


def test_missing_photos_are_one_line(tmp_path, capsys):
    data = Published(tmp_path)
    data.photos = dict(list(data.photos.items())[:1])
    data.write()
    assert prepare("refcoco", "--root", tmp_path, "--out", tmp_path / "store") == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert "3 images are missing in" in error
    assert prepare("refcoco", "--root", tmp_path, "--out", tmp_path / "store", "--skip-bad") == 0
    assert "left out: 3 images are missing in" in capsys.readouterr().err


def test_truncated_photo_is_kept_and_said(tmp_path, capsys):
    data = Published(tmp_path)
    data.photos = {name: photo[:300] for name, photo in data.photos.items()}
    data.write()
    assert prepare("refcoco", "--root", tmp_path, "--out", tmp_path / "store") == 0
    assert "4 images cannot be decoded" in capsys.readouterr().err
    assert DataStore(tmp_path / "store").manifest["image_count"] == 4


@pytest.mark.parametrize("arguments", [("refcoco", "--split-by", "umd"), ("refcoco",), ("nonsense",)])
def test_wrong_arguments_end_with_2(tmp_path, arguments):
    try:
        code = prepare(*arguments, *(["--out", tmp_path / "s", "--root", tmp_path] if len(arguments) == 3 else []))
    except SystemExit as end:
        code = end.code
    assert code == 2


def test_synthetic_is_deterministic_and_grows(tmp_path, capsys):
    def digest(out: str, *more: object) -> DataStore:
        assert prepare("synthetic", "--out", tmp_path / out, "--seed", 3, *more) == 0
        return DataStore(tmp_path / out)

    first = digest("a", "--images", 6)
    assert digest("b", "--images", 6, "--root", tmp_path / "kept").digest == first.digest
    assert (tmp_path / "kept/synthetic/refs(synthetic).p").exists()
    more = digest("c", "--images", 8, "--root", tmp_path / "kept")
    assert prepare("synthetic", "--out", tmp_path / "d", "--seed", 4, "--root", tmp_path / "kept") == 2
    assert "is of scenes with another seed: choose another --root" in capsys.readouterr().err
    shared = zip(first.image_index.to_pylist(), more.image_index.to_pylist(), strict=False)
    assert all(a == b for a, b in shared)
    assert first.image_index["image_id"][0].as_py() == "synthetic/3/1"


def test_scenes_that_look_different_have_other_image_ids(tmp_path):
    prepare("synthetic", "--out", tmp_path / "s", "--images", 2, "--scene.min-side", 64, "--scene.max-side", 80)
    first = DataStore(tmp_path / "s").image_index["image_id"][0].as_py()
    assert first.startswith("synthetic/0-")


def test_scenes_that_name_several_objects_or_none_are_scored_as_grefcoco(tmp_path, capsys):
    options = "--out", tmp_path / "s", "--root", tmp_path / "kept", "--images", 40, "--scene.targets", "many"
    assert prepare("synthetic", *options) == 0
    store = DataStore(tmp_path / "s")
    assert store.manifest["prepared_with"]["scene"]["targets"] == "many"
    assert store.image_index["image_id"][0].as_py().startswith("synthetic/0-")  # other photos than those of one target
    rows = store.expressions(["train"], ["expr_id", "target", "no_target", "ann_ids"]).to_pylist()
    assert {min(len(row["ann_ids"]), 3) for row in rows} == {0, 1, 2, 3}
    # right but for the first that names nothing, of which it names everything
    answers = {row["expr_id"]: Prediction(row["target"]) for row in rows}
    fooled = next(row for row in rows if row["no_target"])
    answers[fooled["expr_id"]] = Prediction(rle.encode(np.ones(fooled["target"]["size"], bool)))
    write_predictions(tmp_path / "p.jsonl", answers)
    capsys.readouterr()
    command = ["score", "--data", tmp_path / "s", "--split", "train", "--predictions", tmp_path / "p.jsonl"]
    assert main([*map(str, command), "--json", str(tmp_path / "s.json")]) == 0
    table = capsys.readouterr().out.split("slices of")[0]
    assert all(name in table for name in ("gIoU", "cIoU", "N-acc", "T-acc"))
    found = json.loads((tmp_path / "s.json").read_text())
    nothing = sum(row["no_target"] for row in rows)
    assert found["no_target"] == nothing > 1
    assert (found["N-acc"], found["T-acc"]) == ((nothing - 1) / nothing, 1)
    assert found["gIoU"] == (len(rows) - 1) / len(rows)
    assert set(found["slices"]["targets"]) == {"none", "1", "2", "3+"}


def test_no_scenes_is_an_error(tmp_path, capsys):
    assert prepare("synthetic", "--out", tmp_path / "s", "--images", 0) == 2
    assert "--images is 0" in capsys.readouterr().err


def test_coco_text_from_the_command_line(tmp_path):
    data = Published(tmp_path).write()
    files = "--instances", tmp_path / "refcoco/instances.json", "--images", data.images_folder
    assert prepare("coco-text", *files, "--out", tmp_path / "store", "--text.max-expressions", 1) == 0
    assert DataStore(tmp_path / "store").manifest["image_count"] == 4


def test_custom_from_the_command_line(tmp_path):
    data = Published(tmp_path).write()
    line = {"expr_id": "1", "image": next(iter(data.photos)), "text": "thing", "split": "val"}
    (tmp_path / "mine.jsonl").write_text(json.dumps({**line, "polygons": [[1, 1, 9, 1, 9, 9]]}))
    files = "--expressions", tmp_path / "mine.jsonl", "--images", data.images_folder
    assert prepare("custom", *files, "--out", tmp_path / "store", "--name", "mine") == 0
    assert DataStore(tmp_path / "store").splits == {"val": {"images": 1, "refs": 1, "expressions": 1}}


def test_every_format_can_be_named():
    assert set(get_args(FormatName)) == set(FORMATS)


def test_check_prints_every_problem_and_ends_with_1(tmp_path, capsys):
    data = Published(tmp_path).write()
    photo = next(iter(data.photos))
    lines = [
        {"image": photo, "text": "thing", "polygons": [[1, 1, 9, 1, 9, 9]]},
        {"image": photo, "text": "\u001b[31m", "polygons": [[1, 1]]},
        {"image": photo, "text": ""},
        {"image": photo},
    ]
    path = tmp_path / "mine.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    arguments = "check", "--expressions", path, "--images", data.images_folder, "--out", tmp_path / "store"
    with pytest.raises(SystemExit) as ended:
        prepare(*arguments)
    assert ended.value.code == 1
    first, *others = capsys.readouterr().out.splitlines()
    assert (first, others[:2]) == (
        "2 lines cannot be used",
        ['  line 3: text must be text, not ""', "  line 4: text must be text, not null"],
    )
    assert others[2] == "1 referents have an unusable mask"
    assert others[3].endswith(": a polygon has fewer than 3 points (line 2)")
    assert others[4] == f"{path}: 3 problems"
    path.write_text(json.dumps(lines[0]))
    assert prepare(*arguments) == 0
    assert capsys.readouterr().out == f"{path}: all right, 1 expressions (train 1 on 1 photos)\n"
    assert not (tmp_path / "store").exists()


@pytest.mark.skipif(not MINI.exists(), reason="needs shared/data/refcoco_mini beside the checkout")
def test_real_refcoco_from_the_command_line(tmp_path, capsys):
    assert prepare("refcoco", "--split-by", "unc", "--root", MINI, "--out", tmp_path / "store") == 0
    assert "9 images, 24 refs, 71 expressions" in capsys.readouterr().out


def test_what_a_named_tokenizer_loses_of_the_sentences_is_said(tmp_path, capsys):
    Published(tmp_path).write()
    words = tmp_path / "vocab.txt"
    words.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the"]))
    arguments = ["refcoco", "--root", tmp_path, "--tokenizer", words]
    assert prepare(*arguments, "--out", tmp_path / "store") == 0
    assert "word pieces (" in capsys.readouterr().err
    words.write_text("the")
    assert prepare(*arguments, "--out", tmp_path / "other") == 2
    assert "is not BERT's: it has no [PAD]" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()
