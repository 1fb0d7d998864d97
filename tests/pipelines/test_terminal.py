"""A person at a terminal sees a bar, a log file gets lines, a collector of logs gets JSON."""

import json
import os
import pty
import re
import subprocess
import sys

import pytest

from pipelines.terminal import duration

WORK = """
import time
from pipelines.terminal import Advance, say
with Advance("images read", 40) as advance:
    for n in range(1, 41):
        time.sleep(0.02)
        advance(n, f"{n // 20} unusable")
        if n == 20:
            say("half of it")
"""


def at_a_terminal(program: str) -> str:
    """What a program writes to a terminal of 120 columns."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "120", "LINES": "30"}
    environment.pop("MAIL_LOG_FORMAT", None)
    process = subprocess.Popen([sys.executable, "-c", program], stderr=theirs, stdout=theirs, env=environment)
    os.close(theirs)
    seen = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # the other side is closed
            break
        if not part:
            break
        seen += part
    os.close(ours)
    assert process.wait(30) == 0
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen.decode())


def piped(program: str, **environment: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env={**os.environ, **environment}
    )
    assert done.stdout == ""
    return done.stderr.splitlines()


def test_a_person_sees_a_bar_with_rate_time_left_and_what_matters_beside_it() -> None:
    seen = at_a_terminal(WORK)
    assert re.search(r"images read .*━.* \d+/40 +\d+\.\d/s +0:00:\d\d +1 unusable", seen)
    assert "half of it" in seen
    assert "images read: 40 of 40" not in seen


def test_what_is_piped_is_lines() -> None:
    first, last = piped(WORK)
    assert first == "half of it"
    assert re.fullmatch(r"images read: 40 of 40 \(\d+\.\d/s\), 2 unusable", last)


def test_json_lines_are_json_also_at_a_terminal() -> None:
    said = [json.loads(line) for line in piped(WORK, MAIL_LOG_FORMAT="json")]
    assert [s["message"].split(" (")[0] for s in said] == ["half of it", "images read: 40 of 40"]
    seen = at_a_terminal(f"import os; os.environ['MAIL_LOG_FORMAT'] = 'json'\n{WORK}")
    assert len([json.loads(line) for line in seen.splitlines()]) == 2


@pytest.mark.parametrize(("seconds", "read"), [(0.4, "0 s"), (59, "59 s"), (61, "1:01 min"), (3600 * 26, "26:00 h")])
def test_durations_are_written_for_people(seconds: float, read: str) -> None:
    assert duration(seconds) == read
