"""One living owner at a time, on a disk and on S3: refused, taken over, given back, and the loser notices."""

import contextlib
import json
import multiprocessing
import os
import pickle
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mail.errors import UserError
from pipelines import processes
from pipelines.claiming.claim import PATIENCE, Claim
from pipelines.claiming.marks import FOLDER, Marks
from tests.s3 import BUCKET, s3_server

CONTEXT: Any = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.pipelines.claiming.test_claim", "boto3"])
WHAT = ("run a", "another --name")


@pytest.fixture(params=["disk", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv(PATIENCE, "1.5")
    with s3_server() if request.param == "s3" else contextlib.nullcontext():
        yield f"s3://{BUCKET}/new folder/a" if request.param == "s3" else str(tmp_path / "new folder" / "a")


def hold(folder: str, environment: dict[str, str], told: Any, until: Any) -> None:
    """Holds a folder until told to let go, or until it is another's; tells what came of it."""
    os.environ.update(environment)
    try:
        with Claim(folder, *WHAT) as ticket:
            told.put("held")
            while not until.wait(0.05):
                ticket.alive()
            ticket.check()
        told.put("ended")
    except UserError as error:
        told.put(str(error))


def start(folder: str) -> tuple[Any, Any, Any]:
    """A process that holds the folder, its words, and what makes it let go."""
    told, until = CONTEXT.Queue(), CONTEXT.Event()
    environment = {k: v for k, v in os.environ.items() if k.startswith(("AWS_", "MAIL_"))}
    process = CONTEXT.Process(target=hold, args=(folder, environment, told, until))
    process.start()
    return process, told, until


def test_of_several_that_start_at_once_one_has_it_and_the_others_are_told_who(folder: str) -> None:
    several = [start(folder) for _ in range(3)]
    said = [told.get(timeout=60) for _, told, _ in several]
    owner = said.index("held")
    pid = several[owner][0].pid
    named = rf"^run a is being worked on by process {pid} on .*, since .* UTC, in .*or give another --name"
    assert [i for i, text in enumerate(said) if text == "held"] == [owner]
    for text in said[:owner] + said[owner + 1 :]:
        with pytest.raises(UserError, match=named):
            raise UserError(text)
    for process, _, until in several:
        until.set()
        process.join(30)
    assert several[owner][1].get(timeout=30) == "ended"
    assert Marks.of(folder).numbers() == []
    assert not Path(folder).exists(), "a folder that nothing came into is left behind"


def test_of_a_killed_one_it_is_taken_over_at_once(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    process, told, _ = start(folder)
    assert told.get(timeout=60) == "held"
    monkeypatch.setenv(PATIENCE, "600")
    process.kill()
    process.join()
    begun = time.monotonic()
    with Claim(folder, *WHAT) as ticket:
        assert time.monotonic() - begun < 5
        assert ticket.number == 2
        ticket.check()


def test_a_stopped_one_loses_it_and_notices_when_it_wakes(folder: str) -> None:
    process, told, _ = start(folder)
    assert told.get(timeout=60) == "held"
    os.kill(process.pid, signal.SIGSTOP)
    time.sleep(0.5)  # until all of its threads stand still: a sign of life meanwhile would be a sign of life
    try:
        with Claim(folder, *WHAT) as ticket:  # waits until nothing was heard for so long
            os.kill(process.pid, signal.SIGCONT)
            assert told.get(timeout=30).startswith(f"run a is gone on with by process {os.getpid()} on ")
            process.join(30)
            ticket.check()
            assert Marks.of(folder).numbers() == [ticket.number] == [2]
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGCONT)
        process.kill()
        process.join(30)


def test_one_on_another_machine_is_alive_as_long_as_its_mark_changes(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    process, told, until = start(folder)
    assert told.get(timeout=60) == "held"
    monkeypatch.setattr(processes, "_world", lambda: "another machine")
    with pytest.raises(UserError, match=f"process {process.pid} on "):
        Claim(folder, *WHAT)
    until.set()
    process.join(30)
    with Claim(folder, *WHAT):
        pass


def test_a_ticket_is_good_elsewhere_and_no_longer_than_the_claim(folder: str) -> None:
    with Claim(folder, *WHAT) as ticket:
        elsewhere = pickle.loads(pickle.dumps(ticket))
        elsewhere.check()
        assert not elsewhere.is_lost()
        elsewhere = pickle.loads(pickle.dumps(elsewhere))
    assert elsewhere.is_lost()
    with pytest.raises(UserError, match=f"its mark in {folder}/{FOLDER} is gone"):
        elsewhere.alive()  # at once: when it was last looked at was another machine's time


def test_a_mark_that_was_cut_short_is_a_dead_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PATIENCE, "1")
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / "000007").write_bytes(b"")
    with Claim(tmp_path, *WHAT) as ticket:
        assert ticket.number == 8
        assert json.loads((tmp_path / FOLDER / "000008").read_text())["process"] == os.getpid()
