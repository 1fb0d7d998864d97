"""Waiting is said after ten seconds and over within a minute; what nobody can wait for is not waited for."""

import logging
import time

import pytest

from mail.waiting import until_answered


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds since the start, as the only entry; sleeping moves it."""
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    return now


def away() -> str:
    raise ConnectionError("refused")


def test_it_says_once_that_it_waits_and_gives_up_within_a_minute(
    clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING), pytest.raises(ConnectionError):
        until_answered(away, lambda error: isinstance(error, OSError), "the store")
    assert 30 < clock[0] < 40
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith("the store does not answer")


def test_what_comes_back_is_asked_again_without_a_word(clock: list[float], caplog: pytest.LogCaptureFixture) -> None:
    assert until_answered(lambda: away() if clock[0] < 5 else "here", lambda error: True, "the store") == "here"
    assert not caplog.messages


def test_another_error_is_not_waited_for(clock: list[float]) -> None:
    with pytest.raises(ConnectionError):
        until_answered(away, lambda error: isinstance(error, TimeoutError), "the store")
    assert clock[0] == 0
