"""Whether anybody is at the address of MLflow, asked once a process.

MLflow's own tries take minutes, without a word, and for a typing error too.
"""

import contextlib
import functools
import re
import urllib.error
import urllib.request
from http import HTTPStatus

from mail import addresses
from mail.errors import UserError
from mail.waiting import until_answered

SECONDS = 10  # for one answer
NOT_ITS_OWN = (  # of a proxy or gateway before a server that is away
    HTTPStatus.BAD_GATEWAY,
    HTTPStatus.SERVICE_UNAVAILABLE,
    HTTPStatus.GATEWAY_TIMEOUT,
    HTTPStatus.PROXY_AUTHENTICATION_REQUIRED,
)


@functools.cache
def await_answer(uri: str, variable: str) -> None:
    """Waits for the server or the database at an URI; a file is there or not.

    Args:
        variable: that the address comes from.

    Raises:
        UserError: nobody answered within a minute.
    """
    shown = f"MLflow at {addresses.without_secrets(uri)}"
    if not addresses.is_web(uri) and not addresses.is_remote_database(uri):
        return
    ask = _ask_server if addresses.is_web(uri) else _ask_database
    try:
        until_answered(functools.partial(ask, uri), _is_away, shown)
    except Exception as error:
        if not _is_away(error):  # its driver is missing, or refuses the address
            raise UserError(f"{shown} cannot be used ({reason(error)}): mend {variable}") from error
        proxy = _proxy(uri) if addresses.is_web(uri) else ""
        raise UserError(f"{shown} does not answer ({reason(error)}): start it, or mend {variable}{proxy}") from error


def answers_now(uri: str) -> bool:
    """Whether somebody answers at an URI, without a second try; a file does."""
    with contextlib.suppress(Exception):  # whatever it is, `await_answer` tells it to whoever needs an answer
        if addresses.is_web(uri):
            _ask_server(uri)
        elif addresses.is_remote_database(uri):
            _ask_database(uri)
        return True
    return False


def _is_away(error: Exception) -> bool:
    if isinstance(error, OSError):
        return True
    from sqlalchemy.exc import OperationalError

    return isinstance(error, OperationalError)


def reason(error: BaseException) -> str:
    """The heart of what a library says of a connection, in a few words without secrets."""
    text = " ".join(str(error).split()) or type(error).__name__
    system = re.findall(r"\[Errno -?\d+\] ([^'\")>]+)", text)
    return addresses.without_secrets(system[-1] if system else text)[:200]


def _ask_server(uri: str) -> None:
    try:
        urllib.request.urlopen(addresses.without_user(uri).rstrip("/") + "/health", timeout=SECONDS).close()
    except urllib.error.HTTPError as answer:
        if answer.code in NOT_ITS_OWN:
            raise
    except urllib.error.URLError as error:
        if "SSL" not in type(error.reason).__name__:  # certificates are for MLflow to judge
            raise


def _ask_database(uri: str) -> None:
    import sqlalchemy

    patience = {"connect_timeout": SECONDS} if uri.startswith(("postgresql", "mysql")) else {}
    sqlalchemy.create_engine(uri, connect_args=patience).connect().close()


def _proxy(uri: str) -> str:
    """What is to be said of a proxy that stands between, nothing if there is none."""
    asked = urllib.request.Request(addresses.without_user(uri))
    proxy = urllib.request.getproxies().get(asked.type)
    if not proxy or urllib.request.proxy_bypass(asked.host):
        return ""
    host = asked.host.rpartition(":")[0] or asked.host
    return (
        f"; the proxy {addresses.without_secrets(proxy)} ({asked.type}_proxy) was asked for it: "
        f"no_proxy={host} leaves it out"
    )
