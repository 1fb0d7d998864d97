"""MLflow that does not answer is one line, soon, which names the proxy that stands between."""

import socket

import pytest

from mail import waiting
from mail.errors import UserError
from pipelines.registry import waiting as registry_waiting
from pipelines.registry.waiting import await_answer


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "GIVE_UP_AFTER", 0.0)
    monkeypatch.setattr(registry_waiting, "SECONDS", 1)
    for name in ("http_proxy", "no_proxy", "HTTP_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    "uri", ["http://me:hunter2@127.0.0.1:9", "postgresql+psycopg://me:hunter2@127.0.0.1:9/db", "http://nobody.invalid"]
)
def test_nobody_there_is_said_with_the_variable_and_without_the_password(uri: str) -> None:
    with pytest.raises(UserError, match=r"^MLflow at .* does not answer \(.*\): start it, or mend THE_URI$") as refused:
        await_answer(uri, "THE_URI")
    assert "hunter2" not in str(refused.value)


def test_the_proxy_is_named_unless_the_host_goes_past_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://me:hunter2@127.0.0.1:9")
    with pytest.raises(UserError, match=r"proxy http://\*\*\*@127.0.0.1:9 \(http_proxy\).*no_proxy=127.0.0.2 leaves"):
        await_answer("http://127.0.0.2:9", "THE_URI")
    monkeypatch.setenv("no_proxy", "127.0.0.3")
    with pytest.raises(UserError, match=r"mend THE_URI$"):
        await_answer("http://127.0.0.3:9", "THE_URI")


def test_a_server_that_takes_the_call_and_is_silent_is_left() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(UserError, match="timed out"):
        await_answer(f"http://127.0.0.1:{silent.getsockname()[1]}", "THE_URI")


def test_files_are_not_waited_for() -> None:
    await_answer("sqlite:////nowhere/mlflow.db", "THE_URI")
