"""What a person can cause is one line at the top; what is a bug keeps its trace. Neither shows a secret."""

import logging
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import OperationalError

from mail.errors import UserError
from pipelines.refusals import explained
from pipelines.terminal import listen

SERVER = "http://me:hunter2@127.0.0.1:9"


def caused_by(error: Exception) -> RuntimeError:
    wrapper = RuntimeError("wrapped")
    wrapper.__cause__ = error
    return wrapper


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (UserError("no photo"), "no photo"),
        (caused_by(UserError("no photo")), "no photo"),
        (PermissionError(13, "Permission denied", "/out"), "/out: Permission denied"),
        (FileNotFoundError(2, "No usable temporary directory found"), "[Errno 2] No usable temporary directory found"),
        (MemoryError(), "this machine is out of memory: give it more, or less at once"),
    ],
)
def test_what_a_person_can_cause_is_a_line(error: Exception, line: str) -> None:
    assert explained(error) == line


def test_a_full_disk_is_named_with_how_to_go_on(tmp_path: Path) -> None:
    full = caused_by(OSError(28, "No space left on device", "/out/a"))
    again = "make room there, then give the same command"
    assert explained(full, "evaluate") == f"/out/a: no space is left on its disk: {again} again"
    assert explained(full, "train") == f"/out/a: no space is left on its disk: {again} with --resume"
    unnamed = OSError(28, "Error writing bytes to file")
    assert str(tmp_path) in str(explained(unnamed, "train", [str(tmp_path / "out")]))


def test_short_memory_names_what_to_lower_in_that_stage() -> None:
    torchs = RuntimeError("[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory")
    for error in (MemoryError(), torchs, caused_by(torchs)):
        assert str(explained(error, "evaluate")).endswith("(evaluate: lower --batch-images or --workers)")


@pytest.mark.parametrize(
    "error",
    [MlflowException(f"asking {SERVER} failed\nmore"), OperationalError("SELECT", {}, Exception(SERVER))],
)
def test_mlflow_and_its_database_are_named_without_the_password(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", SERVER)
    line = str(explained(error))
    assert line.startswith("MLflow at http://***@127.0.0.1:9: ")
    assert "hunter2" not in line
    assert "more" not in line


@pytest.mark.parametrize("error", [KeyError("a"), RecursionError(), ValueError("a bug"), OSError("no number")])
def test_a_bug_is_none(error: Exception) -> None:
    assert explained(error) is None


def test_neither_a_dry_run_nor_a_log_nor_a_trace_shows_a_password(repository: Path, tmp_path: Path) -> None:
    program = (
        "import logging, os, sys\n"
        "from pipelines.__main__ import main\n"
        f"os.environ['MLFLOW_TRACKING_URI'] = '{SERVER}'\n"
        "assert main(['models', 'list', '--dry-run']) == 0\n"
        "logging.getLogger('library').warning('retry %s', os.environ['MLFLOW_TRACKING_URI'])\n"
        "raise KeyError(os.environ['MLFLOW_TRACKING_URI'])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=repository, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "hunter2" not in done.stdout + done.stderr
    for said in (done.stdout, done.stderr):
        assert "http://***@127.0.0.1:9" in said
    assert "KeyError" in done.stderr
    assert "retry http" in done.stderr


def test_what_mail_logs_is_said(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAIL_LOG_FORMAT", "json")
    before = logging.getLogRecordFactory()
    try:
        listen()
        logging.getLogger("mail").warning("the store does not answer")
    finally:
        logging.setLogRecordFactory(before)
    assert '"message": "the store does not answer"' in capsys.readouterr().err
