"""What Ray makes of an exception in a worker, undone: the person's one line at the bottom of it."""

from collections.abc import Iterator

from mail.errors import UserError


def user_error(error: BaseException) -> UserError | None:
    """The wrong input that a task, an actor or a train worker met, None if it was something else.

    Ray wraps what was raised (`cause`), Ray Train collects it by rank (`worker_failures`), Python chains it.
    """
    return next((e for e in _inside(error) if isinstance(e, UserError)), None)


def _inside(error: BaseException | None) -> Iterator[BaseException]:
    if not isinstance(error, BaseException):
        return
    yield error
    several = getattr(error, "worker_failures", {}).values()
    for inner in (*several, *(getattr(error, name, None) for name in ("controller_failure", "cause", "__cause__"))):
        yield from _inside(inner)
