"""What `RAY_ADDRESS` says, as Ray means it, and whether anybody is there: known within seconds.

    (unset), local   a Ray of this process's own, on this machine
    auto             the one that runs on this machine
    HOST:PORT        of a cluster's head, as `ray start` prints it; [::1]:6379 for IPv6

The other addresses that Ray knows, of its dashboard and of its client, are no way in for a stage: refused by name.
"""

import os
import re
import socket
from collections.abc import Iterator

from mail.addresses import without_secrets
from mail.errors import UserError

AUTO = "auto"
SECONDS_TO_ANSWER = 5.0
_HEAD = re.compile(r"(?:\[([0-9a-fA-F:.]+(?:%\w+)?)\]|([^\s:/@\[\]]+)):(\d{1,5})")


def to_join() -> str | None:
    """`auto` or `HOST:PORT` of the cluster that `RAY_ADDRESS` names; None if a Ray is to be started here.

    Raises:
        UserError: it is no address of a cluster's head, or nobody listens there.
    """
    address = named()
    if address is not None and address != AUTO:
        _check_listening(address)
    return address


def named() -> str | None:
    """What `RAY_ADDRESS` says; None where it leaves a stage on this machine."""
    address = os.environ.get("RAY_ADDRESS", "")
    return None if address in ("", "local") else address


def refused(why: str) -> UserError:
    """What is wrong with `RAY_ADDRESS`, with its name and value before it."""
    return UserError(f"RAY_ADDRESS={without_secrets(os.environ.get('RAY_ADDRESS', ''))}: {why}")


def no_answer() -> UserError:
    return refused("no Ray cluster answers there: start it, or unset RAY_ADDRESS to run on this machine")


def not_reached(error: BaseException) -> UserError:
    """Why Ray could not join. What a cluster said of the token is inside of the error that Ray raises in the end."""
    from ray.exceptions import AuthenticationError

    for inner in _chain(error):
        if isinstance(inner, AuthenticationError) or re.search("InvalidAuthToken|Unauthenticated", str(inner)):
            return refused(
                "the cluster refuses this process's token: set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH to the "
                "cluster's token file"
            )
    return no_answer() if isinstance(error, ConnectionError) else refused(" ".join(str(error).split())[:400])


def _check_listening(address: str) -> None:
    if address.lower().startswith("ray" + "://"):
        raise refused("Ray's client cannot run a stage: use `ray job submit`, or HOST:PORT of the head on a node of it")
    if "://" in address:
        raise refused("this is for `ray job submit --address`; a stage joins at HOST:PORT of the head, 6379 as a rule")
    found = _HEAD.fullmatch(address)
    if found is None or not 0 < int(found[3]) < 2**16:
        raise refused("give HOST:PORT of a cluster's head ([::1]:6379 for IPv6), auto or local")
    try:
        socket.create_connection((found[1] or found[2], int(found[3])), SECONDS_TO_ANSWER).close()
    except (OSError, UnicodeError) as error:  # UnicodeError: no name of a host
        raise no_answer() from error


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
