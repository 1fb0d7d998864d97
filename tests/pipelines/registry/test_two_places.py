"""Runs in one store, versions and aliases in another: `MLFLOW_REGISTRY_URI`, as MLflow's users know it."""

from collections.abc import Callable
from pathlib import Path

import mlflow
import pytest

from mail.errors import UserError
from pipelines.registry.client import answers, connect
from pipelines.registry.models import find_version, resolve_model
from pipelines.registry.promotion import champion, decisions, rollback
from pipelines.stages.models import MODELS, Promote
from tests.boxes import Boxes, make_boxes
from tests.registry import make_registered


@pytest.fixture(scope="module")
def boxes(tmp_path_factory: pytest.TempPathFactory) -> Boxes:
    return make_boxes(tmp_path_factory.mktemp("boxes"), images=48)


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, put_mlflow: Callable[[Path], None]) -> tuple[str, str]:
    for name in ("runs", "registry"):
        put_mlflow(tmp_path / f"{name}.db")
    runs, registry = (f"sqlite:///{tmp_path}/{name}.db" for name in ("runs", "registry"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", runs)
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", registry)
    return runs, registry


@pytest.mark.cluster
def test_a_model_is_promoted_compared_used_and_rolled_back(
    places: tuple[str, str], boxes: Boxes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    runs, registry = places
    first = make_registered(tmp_path / "blind" / "model", boxes, "mail-ris", finds=False)
    Promote(model=first.version).run()  # the fresh process finds the model
    second = make_registered(tmp_path / "finds" / "model", boxes, "mail-ris")
    on_boxes = {"data": boxes.store_uri, "masks": boxes.masks_uri, "workers": 0, "out": tmp_path / "out"}
    Promote(model=second.version, split="val", min_gain=0.0, **on_boxes).run()
    now = champion()
    assert now is not None
    assert (now.version, decisions(now)[-1]["against"]) == (second.version, first.version)
    again = Promote(model=first.version, split="val", out=tmp_path / "elsewhere")
    assert again.plan()["to_evaluate"] == []  # the counts are with the runs
    MODELS["show"]().run()
    shown = capsys.readouterr().out
    assert "BROKEN" not in shown
    assert f"data store boxes {boxes.store.digest[:12]}" in shown

    address = "models:/mail-ris@champion"
    assert (resolve_model(address) / "config.json").is_file()
    model = mlflow.pyfunc.load_model(address)
    assert len(model.predict(model.input_example)) == 1
    assert rollback()[1].version == first.version

    apart = {place: mlflow.MlflowClient(place, place) for place in places}
    assert not apart[runs].search_registered_models()
    assert {m.name for m in apart[registry].search_registered_models()} == {"mail-ris", "mail-ris.champions"}
    assert apart[registry].get_experiment_by_name("mail-ris") is None
    assert apart[runs].get_run(second.run_id).data.metrics["val/oIoU"] > 0


def test_what_is_not_there_is_said_of_the_right_place(places: tuple[str, str]):
    runs, registry = places
    with pytest.raises(UserError, match=f"no model mail-ris/1 at {registry}"):
        find_version("mail-ris/1")
    with pytest.raises(UserError, match=f"at {runs}, registry {registry}: .*MLFLOW_REGISTRY_URI"), answers():
        connect().get_run("0" * 32)
