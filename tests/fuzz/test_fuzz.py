"""Spoilt files end in a result or in one line: twenty seconds here, ten minutes in the soak."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("seconds", [20, pytest.param(600, marks=[pytest.mark.soak, pytest.mark.timeout(900)])])
def test_no_reader_fails_on_a_spoilt_file(repository: Path, seconds: int) -> None:
    command = [sys.executable, "-m", "tests.fuzz", "--seconds", str(seconds), "--seed", str(seconds)]
    result = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-6000:]
    found = json.loads(result.stdout.splitlines()[-1])["fuzz"]
    assert len(found) == 23
    assert all(counts["read"] + counts["refused"] > 0 for counts in found.values())


def test_a_reader_that_runs_what_it_reads_is_seen(repository: Path, tmp_path: Path) -> None:
    """The watch itself: Python's own unpickler, given one of the same files."""
    program = """
import pathlib, pickle, sys
from tests.fuzz.guard import Guard
from tests.fuzz.mutations import PROGRAMS
guard = Guard(pathlib.Path(sys.argv[1]))
guard.begin()
pickle.loads(PROGRAMS[0])
open("/etc/hostname").close()
print(guard.end())
"""
    command = [sys.executable, "-c", program, str(tmp_path)]
    environment = {"PYTHONPATH": str(repository), "PATH": "/usr/bin:/bin"}
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert "os.system" in result.stdout
    assert "/etc/hostname" in result.stdout
    assert (tmp_path / "ran").exists()
