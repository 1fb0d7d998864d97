"""Ending on request: which signal ends what, when, with which code. Real processes, really signalled."""

import signal
import subprocess
import sys
import time

import psutil
import pytest

from pipelines.ending import JOB_PATIENCE, EndRequested, allow
from tests.pipelines.killing import hearing

PROGRAM = """
import ctypes, os, signal, subprocess, sys, threading, time
from pipelines import ending

def ready(): print("ready", flush=True)

def at_once():
    ready(); time.sleep(60)

def saves():
    with ending.postponed():
        ready()
        while not ending.requested(): time.sleep(.01)
        print("saved", flush=True)
    print("never", flush=True)

def too_slow():
    ending.allow(.2)
    with ending.postponed():
        ready(); time.sleep(60)

def fails_too():
    with ending.postponed():
        ready()
        while not ending.requested(): time.sleep(.01)
        raise OSError("the cluster was asked to end as well")

def deep_in_a_library():
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # another thread gets it, and this one goes on sleeping
    threading.Timer(.5, ready).start()  # it sleeps by then
    ctypes.CDLL(None).sleep(60)

def with_a_child():
    child = subprocess.Popen(["sleep", "60"])
    print(child.pid, flush=True); ready(); time.sleep(60)

def in_a_thread():
    asked = threading.Event()
    with ending.postponed():
        ready()
        print("saved" if ending.in_thread(asked.wait, asked.set, lambda: False) else "lost", flush=True)

def lent_to_a_library():
    with ending.lent():
        signal.signal(signal.SIGTERM, lambda number, _: sys.exit(number))  # as `ray.init` does
        ready(); time.sleep(60)

def given_back_to_the_system():
    libc = ctypes.CDLL(None)
    libc.signal.argtypes = ctypes.c_int, ctypes.c_void_p
    def give_back():
        libc.signal(signal.SIGTERM, None)  # as `ray.shutdown` does at its begin
        time.sleep(.3); ready(); time.sleep(60)
    ending.in_thread(give_back)

def forked():
    if (child := os.fork()) == 0:
        ready(); time.sleep(60)
    _, status = os.waitpid(child, 0)
    sys.exit(os.WTERMSIG(status))

ending.CLEAN_UP_SECONDS = 1.0
try:
    with ending.owned():
        globals()[sys.argv[1]]()
except ending.EndRequested as end:
    print(end.advice(["train", "--name", "a b"]), flush=True)
    ending.leave(128 + end.signal)
"""


def begin(moment: str, *before: str) -> subprocess.Popen[str]:
    command = [*before, sys.executable, "-c", PROGRAM, moment]
    with hearing():
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def until_ready(process: subprocess.Popen[str]) -> list[str]:
    assert process.stdout is not None
    said: list[str] = []
    while not said or said[-1] != "ready":
        said.append(process.stdout.readline().strip())
        assert said[-1], process.communicate()
    return said


@pytest.mark.parametrize(
    ("moment", "number", "code", "said"),
    [
        ("at_once", signal.SIGINT, 130, "ended by SIGINT; to go on: mail-ris train --name 'a b'"),
        ("at_once", signal.SIGHUP, 129, "ended by SIGHUP; to go on: mail-ris train --name 'a b'"),
        ("saves", signal.SIGTERM, 143, "saved\nended by SIGTERM; to go on: mail-ris train --name 'a b'"),
        ("in_a_thread", signal.SIGTERM, 143, "saved\nended by SIGTERM; to go on: mail-ris train --name 'a b'"),
        ("fails_too", signal.SIGTERM, 143, "ended by SIGTERM; to go on: mail-ris train --name 'a b'"),
        ("too_slow", signal.SIGTERM, 143, "ended by SIGTERM; to go on: mail-ris train --name 'a b'"),
        ("lent_to_a_library", signal.SIGTERM, 143, "ended by SIGTERM; to go on: mail-ris train --name 'a b'"),
        ("given_back_to_the_system", signal.SIGTERM, 143, "ended by SIGTERM; to go on: mail-ris train --name 'a b'"),
        ("deep_in_a_library", signal.SIGTERM, 143, ""),
    ],
)
def test_a_request_ends_with_its_code_and_one_line(moment: str, number: int, code: int, said: str) -> None:
    process = begin(moment)
    until_ready(process)
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out.strip()) == (code, said)
    assert "Traceback" not in err


def test_the_command_that_goes_on_begins_nothing_anew() -> None:
    end = EndRequested(signal.SIGINT)
    end.kept, end.flags, end.without = "half is kept", ("--resume",), ("--fresh",)
    line = end.advice(["train", "--name", "a b", "--fresh"])
    assert line == "ended by SIGINT: half is kept; to go on: mail-ris train --name 'a b' --resume"


@pytest.mark.parametrize(("waits", "grace"), [("45", 30.0), ("12", 5.0), (None, 0.0)])
def test_a_submitted_job_ends_before_ray_uses_force(
    monkeypatch: pytest.MonkeyPatch, waits: str | None, grace: float
) -> None:
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    monkeypatch.delenv(JOB_PATIENCE, raising=False)
    if waits is not None:
        monkeypatch.setenv(JOB_PATIENCE, waits)
    assert allow(30.0) == grace


def test_a_second_request_ends_at_once_whatever_the_process_does() -> None:
    process = begin("in_a_thread")
    until_ready(process)
    process.send_signal(signal.SIGSTOP)  # both arrive before the process can do anything
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGCONT)
    assert process.wait(timeout=30) in (130, 143)


def test_what_the_process_started_ends_with_it() -> None:
    process = begin("with_a_child")
    child = int(until_ready(process)[0])
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    deadline = time.monotonic() + 10
    while psutil.pid_exists(child) and psutil.Process(child).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_nohup_stays_deaf_to_the_terminal() -> None:
    process = begin("saves", "nohup")
    until_ready(process)
    process.send_signal(signal.SIGHUP)
    time.sleep(0.3)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 143


def test_a_forked_child_is_ended_by_its_own_signal_and_the_parent_is_not() -> None:
    process = begin("forked")
    until_ready(process)
    (child,) = psutil.Process(process.pid).children()
    child.terminate()
    assert process.wait(timeout=30) == signal.SIGTERM
