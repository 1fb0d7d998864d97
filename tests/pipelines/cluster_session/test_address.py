"""Every form of `RAY_ADDRESS` is understood as Ray means it, or refused within seconds."""

import socket

import pytest

from mail.errors import UserError
from pipelines.cluster_session import address


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ("ray://127.0.0.1:10001", "Ray's client cannot run a stage: use `ray job submit`"),
        ("http://127.0.0.1:8265", "this is for `ray job submit --address`"),
        ("nonsense", "give HOST:PORT"),
        ("host:0", "give HOST:PORT"),
        ("host:65536", "give HOST:PORT"),
        ("::1:6379", "give HOST:PORT"),
        ("127.0.0.1:6379 ", "give HOST:PORT"),
        ("LOCAL", "give HOST:PORT"),
        ("127.0.0.1:9", "no Ray cluster answers there"),
        ("[::1]:9", "no Ray cluster answers there"),
        ("no such host:6379", "give HOST:PORT"),
        ("nobody.invalid:6379", "no Ray cluster answers there"),
        (f"{'a' * 70}.b:6379", "no Ray cluster answers there"),
    ],
)
def test_what_is_no_head_is_refused_by_its_name(given: str, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", given)
    with pytest.raises(UserError) as refused:
        address.to_join()
    assert str(refused.value).startswith(f"RAY_ADDRESS={given}: {why}")


@pytest.mark.parametrize("given", ["http://me:hunter2@host:8265", "me:hunter2@host:6379"])
def test_its_password_is_not_shown(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", given)
    with pytest.raises(UserError, match=r"\*\*\*@host") as refused:
        address.to_join()
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("given", [None, "", "local"])
def test_without_one_and_with_local_a_ray_is_started_here(given: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if given is not None:
        monkeypatch.setenv("RAY_ADDRESS", given)
    assert address.to_join() is None


def test_a_head_and_auto_are_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    assert address.to_join() == "auto"
    with socket.create_server(("127.0.0.1", 0)) as head:
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{head.getsockname()[1]}")
        assert address.to_join() == f"127.0.0.1:{head.getsockname()[1]}"


def test_a_refused_token_is_said_where_ray_wraps_it() -> None:
    wrapper = ConnectionError("Failed to connect to Ray cluster at 127.0.0.1:6379")
    assert "no Ray cluster answers" in str(address.not_reached(wrapper))
    wrapper.__cause__ = RuntimeError("InvalidAuthToken: Unauthenticated")
    assert "refuses this process's token" in str(address.not_reached(wrapper))
