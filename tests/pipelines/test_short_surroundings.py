"""Stages on a disk that fills up while they work, with a small /dev/shm, few open files, folders that are read-only.

Each works, or ends with one line; what was earned before is there, and the same command goes on once there is room.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mail.data.store import DataStore
from mail.training.checkpoint import find_latest
from pipelines.stages.train_proposer import TrainProposer
from tests.boxes import Boxes, make_boxes
from tests.mail.test_inference import make_model
from tests.pipelines.killing import Run, rows, wait_for
from tests.pipelines.small_disk import Disk, mounted, small_disk
from tests.pipelines.test_ended_stages import training

pytestmark = [pytest.mark.soak, pytest.mark.cluster]
NO_SPACE = "no space is left on its disk: make room there, then give the same command"


@pytest.fixture(scope="module")
def boxes(tmp_path_factory: pytest.TempPathFactory) -> Boxes:
    return make_boxes(tmp_path_factory.mktemp("boxes"), images=120)


@pytest.fixture
def begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Run]]:
    """Starts a stage, with an MLflow of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    runs: list[Run] = []

    def start(*arguments: str, within: list[str] | None = None) -> Run:
        runs.append(Run(*arguments, within=within or ()))
        return runs[-1]

    yield start
    for run in runs:
        run.close()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    with small_disk(tmp_path / "disk", "60m") as found:
        yield found


def ended(run: Run, code: int = 2) -> str:
    """The last line of a stage that ends without a trace."""
    assert run.wait() == code, run.said[-8:]
    assert not [line for line in run.said if "Traceback" in line], "\n".join(run.said)
    return run.said[-1] if run.said else ""


def fills(run: Run, moment: str | Callable[[], bool], disk: Disk) -> str:
    """Fills the disk once the stage has said something, or has come to something; its last line."""
    wait_for((lambda: any(moment in line for line in run.said)) if isinstance(moment, str) else moment, run)
    disk.fill()
    line = ended(run)
    disk.free()
    return line


@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_training_on_a_full_disk_keeps_its_checkpoint_and_goes_on(
    begin: Callable[..., Run], boxes: Boxes, disk: Disk, workers: str
) -> None:
    command = training(boxes, "--workers", workers, "--steps", "60", "--checkpoint-every", "10", "--no-register")
    command += ["--out", f"{disk.place}/run"]
    checkpoints = str(disk.seen / "run" / "checkpoints")
    line = fills(begin(*command, within=disk.within), lambda: find_latest(checkpoints) is not None, disk)
    assert line.startswith(f"error: {disk.place}/run")
    assert line.endswith(f"{NO_SPACE} with --resume")
    kept = find_latest(checkpoints)
    assert kept is not None
    assert kept.step >= 10
    again = begin(*command, "--resume", within=disk.within)
    ended(again, 0)
    assert any("going on from" in line for line in again.said)
    assert json.loads((disk.seen / "run" / "run.json").read_text())["result"]["steps"] == 60


def test_a_training_whose_temporary_folder_is_full_leaves_nothing_in_it(
    begin: Callable[..., Run], boxes: Boxes, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(disk.place))
    command = training(boxes, "--workers", "0", "--steps", "60", "--checkpoint-every", "10", "--no-register")
    line = fills(begin(*command, within=disk.within), "step 10: validation", disk)
    assert line.startswith(f"error: {disk.place}/mail-checkpoint-")
    assert line.endswith(f"{NO_SPACE} with --resume")
    assert not list(disk.seen.glob("mail-checkpoint-*"))
    ended(begin(*command, "--resume", within=disk.within), 0)


def test_figures_that_mlflows_full_disk_did_not_take_are_there_once_it_has_room(
    begin: Callable[..., Run], boxes: Boxes, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{disk.place}/mlflow.db")
    away = "MLflow does not answer ((sqlite3.OperationalError) database or disk is full)"
    command = training(boxes, "--workers", "0", "--steps", "80", "--checkpoint-every", "10", "--no-register")
    run = begin(*command, within=disk.within)
    wait_for(lambda: any("step 10: validation" in line for line in run.said), run)
    disk.fill()
    wait_for(lambda: any(away in line for line in run.said), run)
    disk.free()
    ended(run, 0)
    assert any("the run's record is complete again" in line for line in run.said)


@pytest.mark.parametrize("workers", ["0", "1"])
def test_an_evaluation_on_a_full_disk_keeps_its_answers(
    begin: Callable[..., Run], boxes: Boxes, disk: Disk, tmp_path: Path, workers: str
) -> None:
    model = make_model(tmp_path / "model")
    command = ["evaluate", "--model", str(model), "--data", boxes.store_uri, "--masks", boxes.masks_uri]
    command += ["--split", "train", "--out", f"{disk.place}/out", "--workers", workers, "--batch-images", "2"]
    command += ["--allow-leaky"]
    line = fills(begin(*command, within=disk.within), "evaluating ", disk)
    assert line.startswith(f"error: {disk.place}/out")
    assert line.endswith(f"{NO_SPACE} again")
    ended(begin(*command, within=disk.within), 0)
    assert json.loads((disk.seen / "out" / "metrics.json").read_text())["oIoU"] >= 0


def test_masks_on_a_full_disk_are_there_once(
    begin: Callable[..., Run], disk: Disk, tmp_path: Path, scenes: Path
) -> None:
    command = ["precompute", "--data", f"{scenes}/store", "--proposer", f"{scenes}/proposer"]
    command += ["--masks", f"{disk.place}/masks", "--commit-every", "0.5", "--batch-size", "1"]
    line = fills(begin(*command, within=disk.within), "images are pending", disk)
    assert line.startswith(f"error: {disk.place}/masks")
    assert line.endswith(f"{NO_SPACE} again")
    ended(begin(*command, within=disk.within), 0)
    # copied, for Delta resolves what `seen` leads through
    found = rows(shutil.copytree(disk.seen / "masks", tmp_path / "masks"))
    assert set(found.values()) == {1}
    assert len(found) == 24


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Generated scenes, their store and a proposer."""
    folder = tmp_path_factory.mktemp("scenes")
    made = Run("prepare", "synthetic", "--out", f"{folder}/store", "--root", f"{folder}/root", "--images", "24")
    assert made.wait() == 0, made.said
    layout = {"instances": f"{folder}/root/synthetic/instances.json", "images": f"{folder}/root/images/train2014"}
    TrainProposer(**layout, out=f"{folder}/proposer", exclude_store=f"{folder}/store", steps=4, workers=0).run()
    return folder


def test_a_store_on_a_full_disk_is_written_once_there_is_room(begin: Callable[..., Run], disk: Disk) -> None:
    command = ["prepare", "synthetic", "--out", f"{disk.place}/store", "--images", "150", "--seed", "1"]
    line = fills(begin(*command, within=disk.within), "generating ", disk)
    assert line.startswith(f"error: {disk.place}/store")
    assert line.endswith(f"{NO_SPACE} again")
    ended(begin(*command, within=disk.within), 0)
    assert DataStore(disk.seen / "store").manifest["image_count"] == 150


SHORT = {
    "shm": lambda: mounted("/dev/shm", "64m"),
    "files": lambda: ["prlimit", "--nofile=256"],
}


@pytest.mark.parametrize("short", SHORT)
def test_a_training_on_ray_works_in_short_surroundings(begin: Callable[..., Run], boxes: Boxes, short: str) -> None:
    command = training(boxes, "--workers", "1", "--steps", "4", "--no-register")
    ended(begin(*command, within=SHORT[short]()), 0)


READ_ONLY = 'mkdir -p "$1" && mount --bind "$1" "$1" && mount -o remount,ro,bind "$1" && shift && exec "$@"'


@pytest.mark.parametrize("place", ["out", "home", "mlruns", "masks"])
def test_a_read_only_folder_is_one_line_or_none(
    begin: Callable[..., Run], boxes: Boxes, tmp_path: Path, scenes: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    folder = str(tmp_path / place)
    within = [*mounted("/mnt", "1m")[:3], "sh", "-c", READ_ONLY, "sh", folder]
    command = training(boxes, "--workers", "0", "--steps", "4")
    if place == "home":
        monkeypatch.setenv("HOME", folder)
    if place == "out":
        command += ["--out", f"{folder}/run"]
    if place == "masks":
        command = ["precompute", "--data", f"{scenes}/store", "--proposer", f"{scenes}/proposer", "--masks", folder]
    run = begin(*command, within=within)
    if place in ("out", "masks"):
        line = ended(run)
        assert line.startswith("error: ")
        assert folder in line
        assert "ead-only" in line
        return
    ended(run, 0)  # a home is not needed; without its files MLflow's run is not whole, which is said
    told = [line for line in run.said if "Read-only" in line]
    assert bool(told) == (place == "mlruns")
