"""The command for GPUs runs whole on a machine without one, at the smallest sizes: it must not break unseen."""

import json
import subprocess
import sys

import pytest

from benchmarks.gpu import PARTS, run


@pytest.mark.cluster
@pytest.mark.timeout(1200)  # it is the longest of all: ten processes that load torch, some of them Ray
def test_every_part_runs_and_is_in_the_table(tmp_path, monkeypatch, put_mlflow):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    put_mlflow(tmp_path / "mlflow.db")
    command = [sys.executable, "-m", "benchmarks.gpu", "--tiny", "--out", str(tmp_path / "gpu.jsonl")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1100)
    assert done.returncode == 0, done.stdout + done.stderr
    last = json.loads(done.stdout.splitlines()[-1])
    shown = [part.name for part in PARTS]
    assert list(last["ratio"]) == shown
    assert min(last["ratio"].values()) > 0
    assert [json.loads(line)["part"] for line in (tmp_path / "gpu.jsonl").read_text().splitlines()] == shown
    table = done.stdout.splitlines()[-1 - len(shown) : -1]
    assert [line.partition(":")[0] for line in table] == shown
    assert "expressions_per_second" in table[0]
    assert "waiting_for_data" in table[1]


def test_a_part_that_fails_or_takes_too_long_says_so():
    part = next(p for p in PARTS if p.module == "encoder_vs_vilt")
    assert run(part, True, 0.5)["failed"] == "more than 0.5 s"
