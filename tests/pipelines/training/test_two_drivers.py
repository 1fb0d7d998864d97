"""A driver that is stopped for so long that another one takes its run over: woken, it ends and writes nothing more."""

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mail.data import files
from mail.training.checkpoint import find_latest
from pipelines.claiming.claim import PATIENCE
from pipelines.registry.client import connect, experiment
from pipelines.training.run_state import RunState
from tests.boxes import make_boxes
from tests.pipelines.killing import Run, wait_for
from tests.pipelines.stages.test_train import MICRO
from tests.s3 import BUCKET, s3_server

pytestmark = [pytest.mark.soak, pytest.mark.cluster]
STEPS = 1000


@pytest.fixture
def out(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Folder of a run: on the disk, or on an S3 server."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.setenv(PATIENCE, "4")
    with s3_server() if request.param == "s3" else contextlib.nullcontext():
        yield f"s3://{BUCKET}/runs/run" if request.param == "s3" else str(tmp_path / "runs" / "run")


def written(out: str, start: str) -> set[tuple[str, object]]:
    """What a start of the run has written by now: files, and when."""
    filesystem, root = files.resolve(f"{out}/checkpoints/{start}")
    found = filesystem.get_file_info(files.fs.FileSelector(root, recursive=True, allow_not_found=True))
    return {(info.path, info.mtime_ns) for info in found if info.type == files.fs.FileType.File}


@pytest.mark.timeout(500)
@pytest.mark.parametrize(("out", "workers"), [("disk", 0), ("s3", 0), ("disk", 1)], indirect=["out"])
def test_a_driver_that_was_stopped_has_lost_its_run_when_it_wakes(out: str, workers: int, tmp_path: Path) -> None:
    boxes = make_boxes(tmp_path / "boxes")
    command = ["train", "--preset", "tiny", "--data", boxes.store_uri, "--masks", boxes.masks_uri, "--name", "run"]
    command += ["--out", out, "--workers", str(workers), "--steps", str(STEPS), "--checkpoint-every", "100", "--resume"]
    command += ["--global-batch-size", "4", "--validation-expressions", "0", "--threads", "1", "--no-register"]
    command += [f"--model.{name.replace('_', '-')}={value}" for name, value in MICRO.items()]
    first = Run(*command)
    second = None
    try:
        wait_for(lambda: find_latest(f"{out}/checkpoints") is not None, first)
        refused = Run(*command)
        assert refused.wait() == 2
        assert f"error: run run is being worked on by process {first.process.pid} on " in refused.said[-1]

        os.kill(first.process.pid, signal.SIGSTOP)
        second = Run(*command)
        wait_for(lambda: any(line.startswith("going on from") for line in second.said), second)
        time.sleep(1)  # what was on its way when the first one lost the run
        before = written(out, "start-001")
        os.kill(first.process.pid, signal.SIGCONT)
        assert first.wait() == 2
        assert "error: run run is gone on with by process" in first.said[-1]
        assert f"process {second.process.pid} on" in first.said[-1]
        assert written(out, "start-001") <= before

        assert second.wait() == 0, second.said[-5:]
        state = RunState.open(out, "run")
        assert (state.finished, state.starts, state.earned) == (True, 2, STEPS)
        client = connect()
        (run,) = client.search_runs([experiment(client)])
        assert run.info.status == "FINISHED"
        steps = [metric.step for metric in client.get_metric_history(run.info.run_id, "train/loss")]
        assert sorted(set(steps)) == list(range(1, STEPS + 1))
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(first.process.pid, signal.SIGCONT)
        for run_ in filter(None, (first, second)):
            run_.close()
