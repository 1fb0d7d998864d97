"""The other stages that are asked to end: what they kept, and that the command which they name goes on from it."""

import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from cluster import local_head
from mail.data.mask_table import MaskTable
from mail.data.scenes.layout import write_published_layout
from mail.data.store import DataStore
from mail.proposers.folder import ProposerFolder
from mail.training.checkpoint import find_latest
from pipelines.stages.evaluate import Evaluate
from tests.boxes import make_boxes
from tests.mail.test_inference import make_model
from tests.noise import image_id, make_proposer, write_store
from tests.pipelines.ended import ask, going_on, wait_for
from tests.pipelines.killing import Run, computed_rows, rows

pytestmark = pytest.mark.soak


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_store_is_written_in_full_or_not_at_all(begin: Callable[..., Run], number: int) -> None:
    command = ["prepare", "synthetic", "--out", "store", "--images", "60", "--seed", "1"]
    line = ask(begin(*command), "generating 60 scenes", number)
    assert "no part of a store is kept" in line
    assert begin(*going_on(line)).wait() == 0
    assert DataStore("store").manifest["image_count"] == 60


def test_an_answer_is_given_by_the_same_command(begin: Callable[..., Run], tmp_path: Path) -> None:
    make_model(tmp_path / "model")
    store = write_store("store", range(1))
    (tmp_path / "photo.jpg").write_bytes(next(store.images()).to_pylist()[0]["image"])
    command = ["predict", "--model", "model", "--image", "photo.jpg", "--text", "this", "--out", "mask.png"]
    run = begin(*command)
    line = ask(run, lambda: any("libtorch" in m.path for m in psutil.Process(run.process.pid).memory_maps()))
    assert not (tmp_path / "mask.png").exists()
    assert begin(*going_on(line)).wait() == 0
    assert (tmp_path / "mask.png").exists()


@pytest.mark.parametrize(
    "command",
    [
        ["masks", "verify", "--masks", "masks", "--data", "store"],
        ["masks", "compact", "--masks", "masks"],
        ["models", "list"],
        ["models", "register", "model"],
        ["score", "--data", "store", "--split", "train", "--predictions", "said.jsonl"],
        ["import-proposer", "--weights", "none.pt", "--out", "imported"],
        ["data", "verify", "store"],
    ],
    ids=lambda words: "-".join(words[:2]).strip("-"),
)
def test_a_stage_that_has_just_begun_ends_and_may_be_begun_again(begin: Callable[..., Run], command: list[str]) -> None:
    run = begin(*command)
    line = ask(run, lambda: any("numpy" in m.path for m in psutil.Process(run.process.pid).memory_maps()))
    assert going_on(line) == command


@pytest.mark.cluster
def test_an_ended_precompute_goes_on_to_one_row_an_image(begin: Callable[..., Run], tmp_path: Path) -> None:
    write_store("store", range(400))
    make_proposer("proposer")
    command = ["precompute", "--data", "store", "--proposer", "proposer", "--masks", "masks"]
    run = begin(*command, "--batch-size", "1", "--actors", "1", "--commit-every", "0.1")
    line = ask(run, lambda: sum(rows("masks").values()) > 0, signal.SIGINT)
    kept = sum(rows("masks").values())
    assert 0 < kept < 400
    assert f"the masks of {kept} of 400 pending images are committed" in line
    assert begin(*going_on(line)).wait() == 0
    assert rows("masks") == Counter(image_id(n) for n in range(400))
    assert computed_rows("masks") == 400
    assert MaskTable("masks").head().version > 1


@pytest.mark.cluster
def test_an_ended_evaluation_goes_on_to_the_same_figures(begin: Callable[..., Run], tmp_path: Path) -> None:
    many = make_boxes(tmp_path / "many", images=400)
    make_model(tmp_path / "model")
    given = {"model": "model", "data": many.store_uri, "masks": many.masks_uri, "split": "train"}
    command = ["evaluate", *(word for key, value in given.items() for word in (f"--{key}", value)), "--out", "out"]
    command += ["--allow-leaky", "--workers", "1", "--batch-images", "1", "--no-gallery"]
    record = tmp_path / "out" / ".answers.jsonl"
    line = ask(begin(*command), lambda: record.exists() and record.read_bytes().count(b"\n") > 20)
    kept = record.read_bytes().count(b"\n") - 1
    assert 0 < kept < 300
    assert f"the answers for {kept} of 300 images are kept" in line
    again = begin(*going_on(line))
    assert again.wait() == 0, again.said[-5:]
    assert f"continuing: {kept} of 300 images are answered already" in again.said
    whole = Evaluate(**given, out=Path("whole"), allow_leaky=True, workers=0, batch_images=1, gallery=False)
    whole.run()
    for name in ("predictions.jsonl", "metrics.json"):
        assert (tmp_path / "out" / name).read_bytes() == (whole.out / name).read_bytes()


def test_an_ended_training_of_a_proposer_ends_alike(begin: Callable[..., Run], tmp_path: Path) -> None:
    write_published_layout(tmp_path / "scenes", 30, seed=5)
    command = ["train-proposer", "--instances", "scenes/synthetic/instances.json", "--workers", "0"]
    command += ["--images", "scenes/images/train2014", "--namespace", "synthetic/0", "--holdout-fraction", "0.2"]
    command += ["--steps", "8", "--batch-size", "2"]
    assert begin(*command, "--out", "whole").wait() == 0
    line = ask(begin(*command, "--out", "proposer"), "step 1/8", signal.SIGHUP)
    newest = find_latest("proposer/training")
    assert newest is not None
    assert f"step {newest.step} of the proposer is kept in {newest.address}" in line
    assert begin(*going_on(line)).wait() == 0
    assert ProposerFolder.read("proposer").proposer_id == ProposerFolder.read("whole").proposer_id
    assert not Path("proposer/training").exists()


@pytest.mark.cluster
def test_an_ended_demo_goes_on_and_does_not_begin_anew(
    begin: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    few = ("--images", "40", "--steps", "4", "--proposer-steps", "2", "--pictures", "2")
    line = ask(begin("demo", "--out", "demo", *few, "--fresh"), "[3/8] precompute", after=3)
    assert "2 of 8 parts are done" in line
    assert "--fresh" not in line
    again = begin(*going_on(line))
    wait_for(again, "[3/8] precompute: ")
    for part in ("[1/8] prepare", "[2/8] train-proposer"):
        assert any(said.startswith(f"{part}: is there already") for said in again.said), again.said


@pytest.mark.cluster
@pytest.mark.parametrize("after", [0.0, 4.0])
def test_a_head_that_was_starting_is_not_left_alone(
    begin: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: float
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    run = begin("up", program=(local_head.__file__,))
    started = psutil.Process(run.process.pid)
    wait_for(run, lambda: bool(started.children()))
    time.sleep(after)
    below = started.children(recursive=True)
    run.process.terminate()
    while run.process.poll() is None:
        below += [p for p in started.children(recursive=True) if p not in below]
        time.sleep(0.02)
    assert run.wait() == 128 + signal.SIGTERM, run.said
    assert not psutil.wait_procs(below, timeout=10)[1]
    assert run.said[-1] == "ended by SIGTERM: nothing of it is left running"
    assert "Traceback" not in "\n".join(run.said)
    assert not (tmp_path / "config/mail-ris/ray-head.json").exists()
