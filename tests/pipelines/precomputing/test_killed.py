"""Killed anywhere, as often as you like: the same command again ends with exactly one row an image, and does not do
again what was committed. The reader beside it never sees anything else than whole commits."""

import random
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from mail.data.mask_table import MaskTable
from mail.data.mask_upkeep import verify
from mail.data.store import DataStore
from pipelines.stages.precompute import Precompute
from tests.noise import image_id, make_proposer, write_store
from tests.pipelines.killing import Run, always_read, computed_rows, precompute, rows, wait_for

pytestmark = pytest.mark.cluster
OFTEN = ("--commit-every", "0.1", "--batch-size", "1", "--actors", "1")
VICTIMS = ("driver", "worker", "raylet")


@pytest.fixture(scope="module")
def proposer(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_proposer(tmp_path_factory.mktemp("proposer")).path


def check(masks: str, store: DataStore, images: int) -> None:
    assert rows(masks) == Counter(image_id(n) for n in range(images))
    assert computed_rows(masks) == images
    assert list(verify(MaskTable(masks), store)) == []


def committed(masks: str) -> int:
    return sum(f.rows for f in MaskTable(masks).head().files.values())


@pytest.mark.usefixtures("ray_cluster")
def test_a_run_survives_its_worker_and_continues_after_its_driver(tmp_path: Path, proposer: str) -> None:
    store, masks = write_store(tmp_path / "store", range(400)), str(tmp_path / "masks")
    run = precompute(store.uri, proposer, masks, *OFTEN)
    try:
        with always_read(masks):
            wait_for(lambda: committed(masks) > 0, run)
            actors = [pid for pid in run.processes("worker") if _is_proposer(pid)]
            assert actors
            before = committed(masks)
            run.kill("worker", choose=lambda _: actors[0])
            wait_for(lambda: committed(masks) > before + 20, run)
            assert run.kill("driver")
            run.wait()
    finally:
        run.close()
    done = committed(masks)
    assert 0 < done < 400
    assert Precompute(data=store.uri, proposer=proposer, masks=masks).run()["images"] == 400 - done
    check(masks, store, 400)


@pytest.mark.soak
@pytest.mark.usefixtures("ray_cluster")
def test_two_drivers_at_once_finish_what_a_dead_raylet_left(tmp_path: Path, proposer: str) -> None:
    store, masks = write_store(tmp_path / "store", range(300)), str(tmp_path / "masks")
    with always_read(masks):
        first = precompute(store.uri, proposer, masks, *OFTEN)
        try:
            wait_for(lambda: committed(masks) > 0, first)
            assert first.kill("raylet")
            done = committed(masks)
            second = precompute(store.uri, proposer, masks, *OFTEN)
            assert first.wait() != 0
        finally:
            first.close()
        assert 0 < done < 300
        try:
            wait_for(lambda: second.pending is not None, second)
            third = Precompute(data=store.uri, proposer=proposer, masks=masks, commit_every=0.1, batch_size=1).run()
            assert second.wait() == 0
        finally:
            second.close()
    assert second.pending is not None
    assert second.pending <= 300 - done
    assert third["images"] > 0
    check(masks, store, 300)


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", range(3))
def test_killed_at_random_moments_until_it_ends(tmp_path: Path, proposer: str, seed: int) -> None:
    images = 1500
    choice = random.Random(seed)
    store, masks = write_store(tmp_path / "store", range(images)), str(tmp_path / "masks")
    kills: Counter[str] = Counter()
    with always_read(masks):
        while True:
            before = committed(masks)
            run = precompute(store.uri, proposer, masks, *OFTEN)
            try:
                while kills.total() < 12:
                    victim = choice.choice(VICTIMS)
                    wait = choice.uniform(0, 20 if before == 0 else 12)
                    ended = _wait_until_ended(run, wait)
                    if ended:
                        break
                    kills[victim] += run.kill(victim, choice.choice)
                    if victim != "worker":
                        break
                code = run.wait()
            finally:
                run.close()
            assert run.pending in (None, images - before), "committed work would be done again"
            if code == 0:
                break
    assert kills.total() > 3
    check(masks, store, images)


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", range(2))
def test_two_drivers_killed_at_random_moments_until_both_end(tmp_path: Path, proposer: str, seed: int) -> None:
    images = 1500
    choice = random.Random(seed)
    store, masks = write_store(tmp_path / "store", range(images)), str(tmp_path / "masks")
    kills: Counter[str] = Counter()
    with always_read(masks):
        ended = 0
        while ended < 2:
            runs = [precompute(store.uri, proposer, masks, *OFTEN) for _ in range(2)]
            try:
                while kills.total() < 8:
                    if _wait_until_ended(runs[0], choice.uniform(0, 15)):
                        break
                    victim = choice.choice(VICTIMS)
                    kills[victim] += choice.choice(runs).kill(victim, choice.choice)
                    if kills.total() % 3 == 0:
                        break  # and both are started again
                if kills.total() < 8:
                    for run in runs:
                        run.kill("driver")
                ended = sum(run.wait() == 0 for run in runs)
            finally:
                for run in runs:
                    run.close()
    check(masks, store, images)


def _wait_until_ended(run: Run, seconds: float) -> bool:
    try:
        run.process.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


def _is_proposer(pid: int) -> bool:
    return b"ProposerActor" in Path(f"/proc/{pid}/cmdline").read_bytes()
