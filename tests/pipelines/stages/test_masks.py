"""masks status: what is measured is printed, written to a file and recorded in MLflow with where it comes from."""

import json
from collections.abc import Callable
from pathlib import Path

import mlflow
import pyarrow as pa
import pytest

from mail.data import schema
from mail.data.mask_table import MaskTable
from mail.data.mask_upkeep import seconds_per_image
from pipelines.stages.masks import MasksStatus
from tests.boxes import Boxes, make_boxes
from tests.mask_rows import ids, mask_rows


@pytest.fixture
def boxes(tmp_path: Path) -> Boxes:
    return make_boxes(tmp_path, images=12, broken=1)


def test_the_quality_report_is_an_mlflow_run(
    boxes: Boxes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    put_mlflow: Callable[[Path], None],
) -> None:
    put_mlflow(tmp_path / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    report = MasksStatus(masks=boxes.masks_uri, against=boxes.store_uri, json=str(tmp_path / "r.json")).run()
    quality = json.loads((tmp_path / "r.json").read_text())["quality"]
    (run,) = mlflow.MlflowClient().search_runs([mlflow.MlflowClient().get_experiment_by_name("mail-ris").experiment_id])
    assert run.info.status == "FINISHED"
    for name in ("proposal_recall_50", "proposal_recall_75", "oracle_mIoU", "proposals_per_image"):
        assert run.data.metrics[name] == pytest.approx(quality[name])
        assert quality[name] > 0
    assert run.data.metrics["splits/train/oracle_mIoU"] == pytest.approx(quality["splits"]["train"]["oracle_mIoU"])
    assert run.data.params["masks.digest"] == report["digest"] == boxes.masks.digest
    assert run.data.params["data"] == boxes.store.digest
    assert run.data.tags["leaky"] == "false"
    printed = capsys.readouterr().err
    assert "recall@.5 " in printed
    assert "proposals an image" in printed
    assert run.info.run_id in printed


def test_time_per_image_is_that_of_all_runs_together(tmp_path: Path) -> None:
    table = MaskTable(tmp_path)
    proposer = {"id": "p-1"}
    for numbers, seconds in (((1, 2), 3.0), ((3,), 0.6)):
        note = {"proposer_id": "p-1", "images": len(numbers), "seconds": seconds}
        table.commit([table.write(mask_rows(ids(*numbers)))], proposer, note=note)
    assert seconds_per_image(table, "p-1") == pytest.approx(1.2)
    table.commit([table.write(mask_rows(ids(4), proposer_id="p-2"))], {"id": "p-2"})
    assert seconds_per_image(table, "p-2") is None


def test_reasons_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = MaskTable(tmp_path)
    rows = mask_rows(ids(1, 2, 3, 4), status="decode_error").to_pylist()
    for row, error in zip(
        rows, ("9 bytes missing", "17 bytes missing", "not an image", "8 bytes missing"), strict=True
    ):
        row["error"] = error
    table.commit([table.write(pa.Table.from_pylist(rows, schema.MASKS))], {"id": "p-1"})
    report = MasksStatus(masks=str(tmp_path)).run()
    assert report["proposers"]["p-1"]["reasons"] == {"decode_error": {"# bytes missing": 3, "not an image": 1}}
    assert "decode_error: 3 x # bytes missing, first coco/000001" in capsys.readouterr().err
