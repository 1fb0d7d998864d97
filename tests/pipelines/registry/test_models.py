"""Registered models on a real SQLite store: found, looked at, compared by MLflow, used."""

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import time
import unicodedata
import urllib.error
import urllib.request
from pathlib import Path

import mlflow
import pytest

from mail import lineage
from mail.errors import UserError
from mail.model import MailForReferringSegmentation, MailProcessor, tokenizer_from_texts
from mail.training.checkpoint import save_model
from pipelines.registry import client, models
from pipelines.registry.evaluation_notes import log_evaluation, logged_evaluations, noted, scores_line
from pipelines.registry.models import find_version, register_model, resolve_model, versions
from pipelines.registry.smoke_test import photo
from pipelines.stages.models import MODELS
from tests.boxes import make_boxes, micro_config
from tests.registry import make_registered

WHOLE = {
    "run_id": "0123",
    "code_version": "0.1.0 abcdef",
    "config": {"preset": "tiny", "name": "micro", "proposals": "table"},
    "data_store": {"uri": "store", "name": "boxes", "digest": "d" * 64, "sources": [{"path": "a", "sha256": "b"}]},
    "mask_table": {"uri": "masks", "version": 1, "digest": "m" * 64, "proposer_id": "p"},
    "proposer": {"id": "p", "trained_on": {"count": 3, "digest": "t" * 64}},
    "leaky": False,
}


@pytest.fixture(scope="module")
def store(tmp_path_factory, put_mlflow) -> Path:
    folder = tmp_path_factory.mktemp("mlflow")
    put_mlflow(folder / "mlflow.db")
    return folder


@pytest.fixture
def mlflow_here(store, monkeypatch) -> Path:
    monkeypatch.chdir(store)
    return store


@pytest.fixture(scope="module")
def model_dir(store) -> Path:
    processor = MailProcessor.for_config(tokenizer_from_texts(["the red box"], 20), micro_config())
    save_model(store / "model", MailForReferringSegmentation(micro_config()), processor, WHOLE)
    return store / "model"


@pytest.fixture(scope="module")
def boxes(tmp_path_factory):
    return make_boxes(tmp_path_factory.mktemp("boxes"), images=8)


@pytest.fixture
def three(mlflow_here, model_dir) -> list[int]:
    """At least three registered versions."""
    found = [int(v.version) for v in versions()]
    while len(found) < 3:
        found.append(register_model(model_dir))
    return sorted(found)


def test_a_registered_model_is_found_by_number_alias_and_folder(three, model_dir):
    client.connect().set_registered_model_alias("mail-ris", models.CHAMPION, str(three[0]))
    for address in (f"models:/mail-ris/{three[0]}", "models:/mail-ris@champion"):
        folder = resolve_model(address)
        assert (folder / "model.safetensors").read_bytes() == (model_dir / "model.safetensors").read_bytes()
    assert resolve_model(model_dir) == model_dir


@pytest.mark.cluster
@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_a_model_registered_in_a_folder_of_any_name_is_found_again(form, tmp_path, monkeypatch, boxes):
    folder = tmp_path / unicodedata.normalize(form, "Größe 100% #1 %20 ?ü")
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    version = make_registered(folder / "model", boxes, "odd", bundled=False)
    found = resolve_model("models:/odd/1")
    assert (found / "model.safetensors").read_bytes() == (folder / "model/model.safetensors").read_bytes()
    assert found.is_relative_to(folder / "mlruns")
    assert sorted(p.name for p in folder.iterdir()) == ["mlflow.db", "mlflow.db.lock", "mlruns", "model"]
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", client.tracking_uri())
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert resolve_model("models:/odd/1") == found
    figures = {"split": "testA", "protocol": "original", "oIoU": 0.5, "data_store": {"name": "x", "digest": "d" * 64}}
    (tmp_path / "per_expression.jsonl").touch()
    log_evaluation("models:/odd/1", figures, folder=tmp_path)
    assert [len(list(p.rglob("metrics.json"))) for p in logged_evaluations(version)] == [1]
    assert list(Path.cwd().iterdir()) == []


def test_a_relative_database_is_the_same_from_everywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///my%20runs.db")
    assert client.tracking_uri() == f"sqlite:///{tmp_path}/my runs.db"


def test_no_file_of_a_registered_model_is_a_pickle(three):
    folder = resolve_model(f"models:/mail-ris/{three[0]}").parents[1]
    names = {p.name for p in folder.rglob("*") if p.is_file()}
    assert "pyfunc_model.py" in names
    assert not {n for n in names if n.endswith((".pkl", ".pickle", ".pt", ".pth", ".bin"))}


def test_evaluations_are_noted_on_the_version(three, capsys):
    figures = {"split": "testA", "protocol": "cris", "oIoU": 0.6123, "mIoU": 0.5, "prec": {"0.5": 1}, "expressions": 7}
    log_evaluation(three[1], figures | {"data_store": {"name": "boxes", "digest": "d" * 64}})
    MODELS["list"]().run()
    # wherever it is read, the number says by which protocol, on which split and store, of how many expressions
    assert "testA 61.23 (7 expressions, cris, dddddddddddd)" in capsys.readouterr().out
    MODELS["show"](model=f"models:/mail-ris/{three[1]}").run()
    assert "testA: oIoU 61.23, mIoU 50.00 (7 expressions, protocol cris, data store boxes dddddddddddd)" in (
        capsys.readouterr().out
    )


def test_the_best_of_a_data_set_is_found_by_mlflow_itself(three):
    def note(version: int, oiou: float, name: str, leaky: bool = False) -> None:
        figures = {"split": "val", "protocol": "original", "oIoU": oiou, "mIoU": oiou, "prec": {"0.5": oiou}}
        store = {"name": name, "digest": name[0] * 64}
        log_evaluation(version, figures | {"expressions": 7, "T-acc": None, "leaky": leaky, "data_store": store})

    note(three[0], 0.9, "easy")
    for version, oiou in zip(three, (0.4, 0.6, 0.7), strict=False):
        note(version, oiou, "hard")
    note(three[2], 0.65, "hard")  # again: the newest counts
    note(three[1], 0.8, "leak", leaky=True)
    client.connect()
    hard = {"dataset_name": "hard", "dataset_digest": "h" * 36}

    def search(words: str, *datasets: dict) -> list[str]:
        found = mlflow.search_logged_models(
            filter_string=words,
            datasets=list(datasets),
            order_by=[{"field_name": "metrics.val/oIoU", "ascending": False} | hard],
            output_format="list",
            experiment_ids=[client.experiment(client.connect())],
        )
        return [m.model_id for m in found]

    ids = [find_version(f"mail-ris/{v}").model_id for v in three]
    assert search("metrics.`val/oIoU` > 0.5", hard) == [ids[2], ids[1]]
    assert search("metrics.`val/oIoU` > 0.85") == [ids[0]]  # on whatever
    assert search("metrics.`val/prec.0.5` > 0.5 AND metrics.`val/leaky` = 1") == [ids[1]]
    assert noted(find_version(f"mail-ris/{three[2]}")) == [
        {
            "split": "val",
            "protocol": "original",
            "data_store": {"name": "hard", "digest": "h" * 36},
            "expressions": 7,
            "oIoU": 0.65,
            "mIoU": 0.65,
            "prec": {"0.5": 0.65},
            "leaky": False,
        }
    ]
    (leaky,) = [line for line in scores_line(find_version(f"mail-ris/{three[1]}")).split(", val") if "LEAKY" in line]
    assert "80.00" in leaky


def test_a_registered_model_carries_an_example_of_its_input(three):
    client.connect()
    model = mlflow.pyfunc.load_model(f"models:/mail-ris/{three[0]}")
    (row,) = model.input_example.to_dict("records")
    assert row == {"image": photo(), "text": "the red box on the left"}
    (answer,) = model.predict(model.input_example).to_dict("records")
    assert answer["size"] == [120, 160]


def test_show_prints_the_lineage(three, capsys):
    address = f"models:/mail-ris/{three[0]}"
    MODELS["show"](model=address).run()
    text = capsys.readouterr().out
    assert "training run 0123" in text
    assert "saw 3 listed images" in text
    MODELS["show"](model=address, json=True).run()
    assert json.loads(capsys.readouterr().out)["lineage"] == WHOLE


@pytest.mark.parametrize("address", ["models:/mail-ris/99", "models:/mail-ris@nobody", "models:/other/1", "nowhere"])
def test_an_address_without_a_model_is_a_clear_message(three, address):
    with pytest.raises(UserError, match="no model"):
        resolve_model(address)


def test_a_broken_link_is_shown_as_broken():
    broken = WHOLE | {"data_store": {}}
    assert "BROKEN" in lineage.tree(broken)
    assert lineage.gaps(broken) == ["data store", "source files of the data store"]
    assert lineage.gaps(WHOLE) == []


def test_a_network_without_masks_needs_no_proposer():
    bare = WHOLE | {"mask_table": None, "proposer": None, "config": {"proposals": "none"}}
    assert lineage.gaps(bare) == []


@pytest.mark.cluster
def test_a_registered_model_predicts_in_a_fresh_process_with_its_own_code(three, mlflow_here, boxes_image):
    script = f"""
import json, mlflow, pandas as pd
mlflow.set_tracking_uri("sqlite:///{mlflow_here}/mlflow.db")
model = mlflow.pyfunc.load_model("models:/mail-ris/{three[0]}")
image = open({str(boxes_image)!r}, "rb").read()
print(model.predict(pd.DataFrame({{"image": [image, image], "text": ["the red box", "box"]}})).to_json())
import mail
print(mail.__file__)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300, cwd="/")
    assert done.returncode == 0, done.stderr
    answer, origin = done.stdout.splitlines()[-2:]
    assert json.loads(answer)["size"] == {"0": [48, 64], "1": [48, 64]}
    assert "mlruns" in origin


@pytest.mark.soak
@pytest.mark.cluster
def test_mlflow_serves_a_registered_model(three, mlflow_here, boxes_image):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", f"models:/mail-ris/{three[0]}"]
    command += ["--env-manager", "local", "--host", "127.0.0.1", "--port", str(port)]
    environment = os.environ | {"MLFLOW_TRACKING_URI": f"sqlite:///{mlflow_here}/mlflow.db"}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    row = {"image": base64.b64encode(boxes_image.read_bytes()).decode(), "text": "the red box"}
    address, header = f"http://127.0.0.1:{port}/invocations", {"Content-Type": "application/json"}
    request = urllib.request.Request(address, json.dumps({"dataframe_records": [row]}).encode(), header)
    example = resolve_model(f"models:/mail-ris/{three[0]}").parents[1] / "serving_input_example.json"
    with open(mlflow_here / "serve.log", "w") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd="/", start_new_session=True)
    try:
        until = time.monotonic() + 180
        while True:
            try:
                answer = json.loads(urllib.request.urlopen(request, timeout=60).read())
                own = urllib.request.Request(address, example.read_bytes(), header)
                assert json.loads(urllib.request.urlopen(own, timeout=60).read())["predictions"][0]["size"] == [
                    120,
                    160,
                ]
                break
            except urllib.error.URLError:
                assert server.poll() is None, (mlflow_here / "serve.log").read_text()
                assert time.monotonic() < until, (mlflow_here / "serve.log").read_text()
                time.sleep(0.5)
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)
    (found,) = answer["predictions"]
    assert found["size"] == [48, 64]
    assert 0 <= found["score"] <= 1


@pytest.fixture
def boxes_image(tmp_path) -> Path:
    from PIL import Image

    Image.new("RGB", (64, 48), (200, 30, 30)).save(tmp_path / "image.jpg")
    return tmp_path / "image.jpg"
