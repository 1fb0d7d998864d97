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
    for inner in (
        *getattr(error, "worker_failures", {}).values(),
        getattr(error, "controller_failure", None),
        getattr(error, "cause", None),
        error.__cause__,
    ):
        yield from _inside(inner)
