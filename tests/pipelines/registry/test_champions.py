"""One champion after another: of two promotions decided on the same state only one counts, whoever dies or is slow."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mail.errors import UserError
from pipelines.__main__ import main
from pipelines.registry.champions import Champions, Reign
from pipelines.registry.client import connect
from pipelines.registry.models import CHAMPION
from pipelines.registry.promotion import champion, rollback
from tests.registry import rivals


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, put_mlflow: Callable[[Path], None]) -> Path:
    folder = tmp_path_factory.mktemp("mlflow")
    put_mlflow(folder / "mlflow.db")
    return folder


@pytest.fixture
def name(store: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A registered model with three versions (of which only the numbers matter here)."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{store}/mlflow.db")
    client, name = connect(), f"model-{abs(hash(request.node.name))}"
    client.create_registered_model(name)
    for number in range(3):
        client.create_model_version(name, f"s3://bucket/{number}")
    return name


def alias(name: str) -> str | None:
    found = champion(name)
    return found.version if found else None


def test_of_two_decisions_on_the_same_state_the_second_does_not_count(name: str):
    first, second = Champions(name), Champions(name)
    mine, theirs = first.current(), second.current()
    assert first.append(mine, "1", ()) is not None
    assert second.append(theirs, "2", ()) is None
    assert (first.current().champion, alias(name)) == ("1", "1")
    assert second.append(second.current(), "2", ("1",)) is not None
    assert alias(name) == "2"


def test_of_two_entries_written_at_the_same_moment_the_second_does_not_count(name: str):
    first, second = Champions(name), Champions(name)
    first._ensure_log()
    entries = [{"after": "0", "champion": v, "history": "[]", "token": v} for v in ("1", "2")]
    assert first._create("1", entries[0], "1") is not None  # both saw that nobody was champion
    assert second._create("2", entries[1], "2") is None
    assert second.current().champion == "1"


def test_an_alias_moved_by_hand_during_the_comparison_is_a_decision_too(name: str):
    champions = Champions(name)
    state = champions.current()
    connect().set_registered_model_alias(name, CHAMPION, "3")
    assert champions.append(state, "1", ()) is None
    assert alias(name) == "3"


def test_a_writer_that_was_slow_does_not_bring_an_old_champion_back(name: str):
    slow, quick = Champions(name), Champions(name)
    slow._ensure_log()
    written = slow._create("1", {"after": "0", "champion": "1", "history": "[]", "token": "t"}, "t")
    assert written is not None  # and now it pauses, before it sets the alias
    quick.append(quick.current(), "2", ("1",))
    slow.settle(written)
    assert (alias(name), quick.current().champion) == ("2", "2")


def test_a_promotion_killed_before_the_alias_was_set_is_finished_by_the_next_reader(name: str, repository: Path):
    script = f"""
import os, signal
from pipelines.registry.champions import Champions
champions = Champions({name!r})
champions.settle = lambda reign: os.kill(os.getpid(), signal.SIGKILL)
champions.append(champions.current(), "3", ())
"""
    environment = os.environ | {"PYTHONPATH": str(repository)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, timeout=120, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert alias(name) is None
    assert Champions(name).current().champion == "3"
    assert alias(name) == "3"


def test_several_readers_may_finish_the_same_promotion_at_once(name: str):
    champions = Champions(name)
    champions._ensure_log()
    for number in range(4):  # each time nobody has set the alias yet
        tags = {"after": str(number), "champion": "123"[number % 3], "history": "[]", "token": str(number)}
        written = champions._create(tags["champion"], tags, tags["token"])
        assert written is not None
        together = threading.Barrier(4)

        def settle(reign: Reign = written, barrier: threading.Barrier = together) -> Reign:
            barrier.wait()
            return Champions(name).settle(reign)

        with ThreadPoolExecutor(4) as pool:
            settled = [future.result() for future in [pool.submit(settle) for _ in range(4)]]
        assert {s.number for s in settled} == {number + 1}
        assert alias(name) == tags["champion"]


def test_an_alias_moved_by_hand_is_respected_and_can_be_rolled_back(name: str):
    champions = Champions(name)
    champions.append(champions.current(), "1", ())
    connect().set_registered_model_alias(name, CHAMPION, "3")
    assert champions.current().champion == "3"
    before, after = rollback(name)
    assert (before.version, after.version, alias(name)) == ("3", "1", "1")


def test_rollback_goes_back_through_the_champions_that_are_still_there(name: str):
    champions = Champions(name)
    for version in ("1", "2", "3"):
        state = champions.current()
        champions.append(state, version, (*state.history, *([state.champion] if state.champion else [])))
    connect().delete_model_version(name, "2")
    assert rollback(name)[1].version == "1"
    with pytest.raises(UserError, match="none to go back to"):
        rollback(name)
    for dry_run in ([], ["--dry-run"]):
        assert main(["models", "rollback", "--name", name, *dry_run]) == 2


def test_without_champion_or_model_it_is_said(name: str):
    with pytest.raises(UserError, match="no champion"):
        rollback(name)
    with pytest.raises(UserError, match="no model 'nobody'"):
        rollback("nobody")


@pytest.mark.cluster
def test_concurrent_processes_never_win_on_the_same_state(name: str, repository: Path, tmp_path: Path):
    won = rivals(name, ["1", "2", "3"], 4, tmp_path / "gate", repository)
    champions = Champions(name)
    counting = champions._counting()[1:]
    assert 0 < sum(won) == len(counting) < 12  # some decisions did collide
    assert alias(name) == counting[-1].champion
