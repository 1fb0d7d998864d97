"""What Ray makes of an exception in a worker, undone: the person's one line at the bottom of it."""

import contextlib
from collections.abc import Iterator

from mail.errors import UserError

PRINTED = f"\n{UserError.__module__}.{UserError.__qualname__}: "  # how the last line of a stack trace begins
TRACE = "Traceback (most recent call last)"


@contextlib.contextmanager
def plain_errors() -> Iterator[None]:
    """A block in which Ray works: a wrong input that it raises, however wrapped, comes out as the UserError it was."""
    try:
        yield
    except Exception as error:
        if wrong := user_error(error):
            raise wrong from None
        raise


def user_error(error: BaseException) -> UserError | None:
    """The wrong input that a task, an actor or a train worker met, None if it was something else.

    Ray wraps what was raised (`cause`), Ray Train collects it by rank (`worker_failures`) or names its own process's
    (`controller_failure`), Python chains it. Of what a train worker or an actor's constructor raised, Ray hands on the
    printed stack trace alone.
    """
    found = list(inside(error))
    for inner in found:
        if isinstance(inner, UserError) and not hasattr(inner, "cause"):  # Ray derives one that says the whole trace
            return inner
    for inner in found:
        _, printed, text = str(inner).rpartition(PRINTED)
        if printed and TRACE not in text:  # otherwise something else went wrong after it
            return UserError(text.splitlines()[0])  # Ray Data adds advice of its own
    return None


def inside(error: BaseException | None) -> Iterator[BaseException]:
    """The error and those in it: what Ray wrapped, what its workers and its controller met, what it was raised from."""
    if not isinstance(error, BaseException):
        return
    yield error
    several = getattr(error, "worker_failures", {}).values()
    for inner in (*several, *(getattr(error, name, None) for name in ("controller_failure", "cause", "__cause__"))):
        yield from inside(inner)
