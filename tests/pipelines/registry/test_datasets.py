"""What a run reads, as MLflow's datasets."""

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mlflow
import pytest

from pipelines.registry.client import connect
from pipelines.registry.datasets import training_inputs
from pipelines.registry.run_log import start_run
from tests.boxes import Boxes, make_boxes


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, put_mlflow: Callable[[Path], None]) -> Path:
    folder = tmp_path_factory.mktemp("datasets")
    put_mlflow(folder / "mlflow.db")
    return folder


@pytest.fixture(scope="module")
def boxes(folder: Path) -> Boxes:
    return make_boxes(folder)


@pytest.fixture(autouse=True)
def _mlflow_here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")


def test_a_dataset_leads_to_its_files_and_says_what_is_in_them(boxes: Boxes):
    run_id = start_run("read", {}, {}, inputs=training_inputs(boxes.store, boxes.masks))
    store, masks = connect().get_run(run_id).inputs.dataset_inputs
    assert Path(mlflow.data.get_source(store).load(), "store.json").is_file()
    assert mlflow.data.get_source(masks).uri == boxes.masks_uri
    assert json.loads(store.dataset.profile) == {
        "images": 30,
        "expressions": {name: counts["expressions"] for name, counts in boxes.store.splits.items()},
        "digest": boxes.store.digest,
    }
    assert json.loads(masks.dataset.profile) == boxes.masks.lineage


def test_a_network_without_masks_reads_none(boxes: Boxes):
    run_id = start_run("bare", {}, {}, inputs=training_inputs(boxes.store, None))
    (store,) = connect().get_run(run_id).inputs.dataset_inputs
    assert {t.key: t.value for t in store.tags} == {"mlflow.data.context": "training"}


def test_runs_that_begin_at_once_note_the_same_data_set(tmp_path: Path):
    new = make_boxes(tmp_path, images=8)
    start_run("before", {}, {})  # the database is there
    together = threading.Barrier(4)

    def begin(number: int) -> str:
        together.wait()
        return start_run(f"run {number}", {}, {}, inputs=training_inputs(new.store, new.masks))

    with ThreadPoolExecutor(4) as pool:
        runs = list(pool.map(begin, range(4)))
    assert {len(connect().get_run(run_id).inputs.dataset_inputs) for run_id in runs} == {2}


def test_an_object_store_keeps_its_address(tmp_path: Path):
    store = make_boxes(tmp_path, images=12).store
    store.uri = "s3://bucket/boxes"
    run_id = start_run("remote", {}, {}, inputs=training_inputs(store, None))
    (found,) = connect().get_run(run_id).inputs.dataset_inputs
    assert mlflow.data.get_source(found).uri == "s3://bucket/boxes"
