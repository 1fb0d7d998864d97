"""The command for GPUs runs whole on a machine without one, at the smallest sizes: it must not break unseen."""

import json
import subprocess
import sys

import pytest

from benchmarks.gpu import PARTS, run

ON_RAY = ("training", "precompute")  # minutes; the stages that they run are in many tests
WITHOUT = tuple(part.name for part in PARTS if part.tiny and part.name not in ON_RAY)
SHOWN = {"step": "expressions_per_second", "training": "waiting_for_data"}


@pytest.mark.cluster
@pytest.mark.parametrize("parts", [WITHOUT, pytest.param(ON_RAY, marks=pytest.mark.soak)], ids=["without", "on_ray"])
def test_every_part_runs_and_is_in_the_table(parts, tmp_path):
    command = [sys.executable, "-m", "benchmarks.gpu", "--tiny", "--out", str(tmp_path / "gpu.jsonl")]
    done = subprocess.run([*command, "--only", *parts], capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    last = json.loads(done.stdout.splitlines()[-1])
    assert tuple(last["ratio"]) == parts
    assert min(last["ratio"].values()) > 0
    assert tuple(json.loads(line)["part"] for line in (tmp_path / "gpu.jsonl").read_text().splitlines()) == parts
    table = done.stdout.splitlines()[-1 - len(parts) : -1]
    assert tuple(line.partition(":")[0] for line in table) == parts
    assert all(SHOWN.get(name, "ratio") in line for name, line in zip(parts, table, strict=True))


def test_a_part_that_fails_or_takes_too_long_says_so():
    part = next(p for p in PARTS if p.module == "encoder_vs_vilt")
    assert run(part, True, 0.5)["failed"] == "more than 0.5 s"
