"""The paper's table, rehearsed whole on generated data sets in the published form, from a server on this machine."""

import json
import os
import random
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import pytest

from mail.data import files
from mail.errors import UserError
from pipelines.reproducing.paper import ROWS
from pipelines.stages.reproduce import Reproduce
from tests.pipelines.downloading.file_server import FileServer, serving
from tests.pipelines.job_head import running_head
from tests.pipelines.killing import Run
from tests.published_world import archives
from tests.s3 import BUCKET, s3_server

SMALL = ("--preset", "tiny", "--proposer-preset", "tiny", "--workers", "0", "--evaluation-workers", "0", "--seeds", "2")


@pytest.fixture
def server() -> Iterator[FileServer]:
    with serving() as started:
        yield started


def command(out: Path, server: FileServer, steps: int, *more: str) -> tuple[str, ...]:
    where = ("--download", str(out.parent / "data"), "--mirror", server.address, "--out", str(out))
    return ("reproduce", *where, *SMALL, "--steps", str(steps), "--proposer-steps", str(steps), *more)


def lines(out: Path) -> list[dict[str, Any]]:
    """The table, without what a clock says."""
    found = json.loads((out / "table.json").read_text())["lines"]
    return [{key: value for key, value in line.items() if key != "hours"} for line in found]


def finish(run: Run, patience: float = 1500.0) -> None:
    try:
        assert run.process.wait(patience) == 0, run.said[-8:]
    finally:
        run.close()


@pytest.mark.cluster
@pytest.mark.timeout(900)
def test_a_table_from_nothing(server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    server.contents = archives(tmp_path / "world", 80)
    out, rows = tmp_path / "out", ("refcoco-unc/testA", "refcocog-google/val")
    wanted = command(out, server, 12, "--rows", *rows)
    finish(Run(*wanted))
    found = {line["key"]: line for line in lines(out) if line["ours"] is not None and line["protocol"] == "original"}
    assert set(found) == set(rows)
    assert [found[key]["label"] for key in rows] == ["clean", "leaky"]
    assert not any(line["published_data"] for line in found.values()), "these are generated scenes"
    assert all(line["seeds"] == len(line["each"]) == 2 and line["interval"] >= 0 for line in found.values())
    for key, run in zip(rows, ("refcoco-unc-seed1", "refcocog-google-seed1"), strict=True):
        figures = json.loads((out / "evaluations" / run / key.rpartition("/")[2] / "metrics.json").read_text())
        assert found[key]["each"][1] == pytest.approx(100 * figures["oIoU"])
        assert found[key]["expressions"] == figures["expressions"]
    table = (out / "table.md").read_text()
    assert len(re.findall(r"\| not run \|", table)) == 2 * (len(ROWS) - 2)
    assert re.search(r"\| RefCOCO testA \| 71\.71 \| \d+\.\d\d \| - \| original \|.* clean, other data \|", table)
    client = mlflow.MlflowClient(f"sqlite:///{out / 'mlflow.db'}")
    (experiment,) = client.search_experiments(filter_string="name = 'mail-ris'")
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = (run for run in runs if run.info.run_name == "reproduce")
    assert parent.data.metrics["oIoU/refcoco-unc/testA/original"] == pytest.approx(found[rows[0]]["ours"])
    below = [run.info.run_name for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert sorted(below) == sorted(f"{key.rpartition('/')[0]}-seed{seed}" for key in rows for seed in range(2))
    begun = time.monotonic()
    finish(Run(*wanted))
    assert time.monotonic() - begun < 120
    assert {line["key"] for line in lines(out) if line["ours"] is not None} == set(rows)


@pytest.mark.soak
@pytest.mark.cluster
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("photos", [120, 2000])
def test_a_table_whose_making_is_killed_three_times_is_the_same(
    server: FileServer, tmp_path: Path, photos: int
) -> None:
    server.contents = archives(tmp_path / "world", photos)
    whole, killed = tmp_path / "whole" / "out", tmp_path / "killed" / "out"
    begun = time.monotonic()
    finish(Run(*command(whole, server, 60, "--ablate")), 3600)
    seconds, chance = time.monotonic() - begun, random.Random(photos)
    for _ in range(3):
        run = Run(*command(killed, server, 60, "--ablate"))
        try:
            time.sleep(chance.uniform(5.0, 0.4 * seconds))
            run.kill("driver")
        finally:
            run.close()
    finish(Run(*command(killed, server, 60, "--ablate")), 3600)
    assert lines(killed) == lines(whole)
    assert all(line["ours"] is not None for line in lines(whole))
    assert len({line["ours"] for line in lines(whole)}) > len(ROWS), "so few steps teach some rows nothing, but not all"


@pytest.mark.soak
@pytest.mark.cluster
@pytest.mark.timeout(3600)
def test_all_rows_on_an_object_store_made_by_a_submitted_job(
    server: FileServer, tmp_path: Path, repository: Path, put_mlflow: Callable[[Path], None]
) -> None:
    server.contents = archives(tmp_path / "world", 80)
    put_mlflow(tmp_path / "mlflow.db")
    out, here = f"s3://{BUCKET}/table", tmp_path / "here" / "out"
    with s3_server(), running_head(tmp_path) as head:
        stage = list(command(tmp_path / "there" / "out", server, 12))
        stage[stage.index("--out") + 1] = out
        for option in ("--workers", "--evaluation-workers"):
            stage[stage.index(option) + 1] = "1"
        store = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
        variables = {**store, "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path / 'mlflow.db'}", "HF_HUB_OFFLINE": "1"}
        done = replace(head, patience=1800.0).stage(*stage, env_vars=variables, folder=repository)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
        table = json.loads(files.read_bytes(*files.resolve(f"{out}/table.json")))["lines"]
        assert b"| RefCOCO val |" in files.read_bytes(*files.resolve(f"{out}/table.md"))
    finish(Run(*command(here, server, 12)))
    told = ("key", "protocol", "expressions", "label", "seeds", "published_data")  # so few steps leave each figure at 0
    there, alone = ([{name: line[name] for name in told} for line in found] for found in (table, lines(here)))
    assert there == alone
    assert {line["key"] for line in table if line["ours"] is not None} == {row.key for row in ROWS}


def test_what_it_needs_is_told_row_by_row(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    plan = Reproduce(root=tmp_path / "data", out=tmp_path / "out", seeds=3, ablate=True, gpu_price=2.5).plan()
    found = plan["data_sets"]
    assert set(found) == {"refcoco-unc", "refcoco+-unc", "refcocog-umd", "refcocog-google"}
    assert found["refcoco-unc"]["trainings"] == 6
    assert found["refcoco-unc"]["gpu_hours"] == pytest.approx(6 * 40_000 * 64 / 1151 / 3600, abs=0.01)
    assert plan["together"]["cost"] == pytest.approx(sum(part["cost"] for part in found.values()), abs=0.01)
    assert not (tmp_path / "out" / "stores").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rows": ("refcoco/testA",)}, "--rows refcoco/testA: the table has refcoco-unc/val, "),
        ({"root": None}, "give --root, the folder of the published files, or --download"),
        ({"seeds": 0}, "--seeds must be at least 1"),
    ],
)
def test_what_cannot_be_done_is_said_first(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        Reproduce(**{"root": tmp_path, "out": tmp_path / "out"} | options).run()


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"holds notes\.txt, which no reproduction made"):
        Reproduce(root=tmp_path.parent, out=tmp_path).run()
