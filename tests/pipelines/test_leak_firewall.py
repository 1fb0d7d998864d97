"""The leak firewall across the stages, with the real lists: all of RefCOCO's evaluation images, and others."""

import json
from pathlib import Path

import pytest

from mail.data.coco import CocoInstances
from mail.data.image_keys import entries_of
from mail.data.mask_table import MaskTable
from mail.data.store import DataStore
from mail.errors import UserError
from pipelines.__main__ import main
from pipelines.stages.evaluate import Evaluate
from pipelines.stages.precompute import Precompute
from pipelines.stages.train import Train
from pipelines.training.config import ModelOverrides
from tests.mail.test_inference import make_model
from tests.mail.test_leakage import photos_store, picture, saved
from tests.mask_rows import mask_rows
from tests.noise import make_proposer, set_seen
from tests.pipelines.stages.test_train import MICRO
from tests.published_lists import SPLITS, refcoco_lists, write_lists

COUNTS = {"val": 1500, "testA": 750, "testB": 750}


@pytest.fixture(scope="module")
def data(repository: Path) -> Path:
    path = repository / "../shared/data"
    if not (path / "refcoco_text").exists():
        pytest.skip("needs shared/data beside the checkout")
    return path


@pytest.fixture(scope="module")
def lists(data: Path) -> dict[str, str]:
    return refcoco_lists(data)


@pytest.fixture(scope="module")
def pool(data: Path) -> list[str]:
    return [f"coco/{i}" for i in CocoInstances(data / "coco_pool/instances.json").images]


@pytest.fixture(scope="module")
def store(lists: dict[str, str], pool: list[str], tmp_path_factory: pytest.TempPathFactory) -> DataStore:
    """RefCOCO's evaluation images, and the pool as its training images."""
    return write_lists(tmp_path_factory.mktemp("lists") / "store", {**lists, **dict.fromkeys(pool, "train")})


def table(folder: Path, store: DataStore, seen: list | None) -> str:
    """A mask table whose proposer saw these images."""
    masks = MaskTable(folder)
    if seen is not None:
        masks.register_origin("p-1", seen)
    images = store.image_index
    rows = mask_rows(images["image_id"].to_pylist())
    column = rows.schema.get_field_index("image_sha256")
    masks.commit([masks.write(rows.set_column(column, "image_sha256", images["sha256"]))], {"id": "p-1"})
    return str(folder)


def precompute(tmp_path: Path, store: DataStore, seen: list, **options: bool) -> Precompute:
    folder = make_proposer(tmp_path / "proposer")
    set_seen(folder.path, seen)
    return Precompute(data=store.uri, proposer=folder.path, masks=str(tmp_path / "masks"), **options)


def train(store: DataStore, masks: str, **options: bool) -> Train:
    return Train(
        preset="tiny",
        data=store.uri,
        masks=masks,
        name="run",
        workers=0,
        steps=2,
        global_batch_size=2,
        validation_expressions=0,
        model=ModelOverrides(**MICRO),
        **options,
    )


def test_the_lists_are_whole(lists: dict[str, str], store: DataStore) -> None:
    assert len(lists) == 3000
    assert {s: store.splits[s]["images"] for s in SPLITS} == COUNTS


def test_every_stage_accepts_a_proposer_that_saw_none_of_them(
    tmp_path: Path, store: DataStore, pool: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert precompute(tmp_path, store, pool).plan()["leaky"] is False
    masks = table(tmp_path / "table", store, pool)
    assert train(store, masks).plan()["leaky"] is False


def test_every_stage_refuses_a_proposer_that_saw_some_and_says_how_many_of_which_split(
    tmp_path: Path, store: DataStore, lists: dict[str, str], pool: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    seen = [
        *pool,
        *sorted(i for i, s in lists.items() if s == "testA")[:7],
        *(i for i, s in lists.items() if s == "val"),
    ]
    with pytest.raises(UserError, match="7 of 750 of testA, 1500 of 1500 of val") as raised:
        precompute(tmp_path / "a", store, seen).plan()
    assert "testB" not in str(raised.value)
    assert precompute(tmp_path / "b", store, seen, allow_leaky=True).plan()["leaky"] is True
    masks = table(tmp_path / "table", store, seen)
    with pytest.raises(UserError, match="7 of 750 of testA, 1500 of 1500 of val"):
        train(store, masks).plan()
    assert train(store, masks, allow_leaky=True).plan()["leaky"] is True


def test_evaluation_refuses_what_leaks_into_its_split_and_nothing_else(
    tmp_path: Path, store: DataStore, lists: dict[str, str]
) -> None:
    model = make_model(tmp_path / "model")
    origin = {"uri": store.uri, "name": store.name, "digest": store.digest}
    (model / "lineage.json").write_text(json.dumps({"data_store": origin, "leaky": False}))
    masks = table(tmp_path / "table", store, [i for i, s in lists.items() if s == "testA"])

    def evaluate(split: str, **options: bool) -> Evaluate:
        return Evaluate(
            model=str(model), data=store.uri, masks=masks, split=split, out=tmp_path / split, workers=0, **options
        )

    with pytest.raises(UserError, match="750 of 750 of testA"):
        evaluate("testA").plan()
    assert evaluate("testA", allow_leaky=True).plan()["leaky"] is True
    assert evaluate("testB").plan()["leaky"] is False


@pytest.mark.parametrize("where", ["a folder that is gone", "a store that is another one now", ""])
def test_model_whose_training_images_nobody_can_list_any_more_is_leaky(
    tmp_path: Path, store: DataStore, lists: dict[str, str], where: str, capsys: pytest.CaptureFixture[str]
) -> None:
    model = make_model(tmp_path / "model")
    uri = {"a folder that is gone": str(tmp_path / "gone"), "a store that is another one now": store.uri}.get(where)
    origin = {"uri": uri, "name": "of last year", "digest": "0" * 64}
    (model / "lineage.json").write_text(json.dumps({"data_store": origin, "leaky": False}))
    masks = table(tmp_path / "table", store, [i for i, s in lists.items() if s == "testA"])
    job = Evaluate(model=str(model), data=store.uri, masks=masks, split="testB", out=tmp_path / "out", workers=0)
    assert job.plan()["leaky"] is True
    assert "nobody can tell which images" in capsys.readouterr().err


def test_every_stage_knows_a_photo_by_its_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    same, again, other = saved(picture(1)), saved(picture(1), compress_level=0), saved(picture(2))
    store = photos_store(tmp_path, "own", {"a": ("train", same), "b": ("val", again), "c": ("testA", other)})
    settings = {"preset": "tiny", "data": store.uri, "name": "run", "workers": 0, "steps": 2, "proposals": "none"}
    with pytest.raises(UserError, match=r"1 of 1 of val \(first: b\)"):
        Train(**settings).plan()
    assert Train(**settings, allow_leaky=True).plan()["leaky"] is True
    elsewhere = photos_store(tmp_path, "elsewhere", {"x": ("train", same)})
    seen = entries_of(elsewhere.image_keys(["train"])["train"])
    with pytest.raises(UserError, match="1 of 1 of val"):
        precompute(tmp_path, store, seen).plan()
    model = make_model(tmp_path / "model")
    origin = {"uri": elsewhere.uri, "name": elsewhere.name, "digest": elsewhere.digest}
    (model / "lineage.json").write_text(json.dumps({"data_store": origin, "leaky": False}))
    masks = table(tmp_path / "table", store, seen)

    def evaluate(split: str, data: str = store.uri) -> bool:
        job = Evaluate(model=str(model), data=data, masks=masks, split=split, out=tmp_path / split, workers=0)
        return job.plan()["leaky"]

    with pytest.raises(UserError, match=r"the model was trained on images .* of own: 1 of 1 of val"):
        evaluate("val")
    assert evaluate("testA") is False


def test_prepare_says_that_photos_of_two_splits_are_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = []
    for name, split in (("a.png", "train"), ("b.png", "val"), ("c.png", "val")):
        (tmp_path / name).write_bytes(saved(picture(7 if name == "c.png" else 1)))
        polygon = [[5, 5, 60, 5, 60, 60]]
        lines.append({"expr_id": name, "image": name, "text": "it", "split": split, "polygons": polygon})
    (tmp_path / "lines.jsonl").write_text("\n".join(map(json.dumps, lines)))
    arguments = ["prepare", "custom", "--expressions", tmp_path / "lines.jsonl", "--images", tmp_path]
    assert main([*map(str, arguments), "--out", str(tmp_path / "store")]) == 0
    assert "evaluation splits of custom: 1 of 2 of val (first: custom/b.png)" in capsys.readouterr().err
