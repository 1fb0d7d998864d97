"""Sit beside Ray Train's controller, which outlives the workers, and learn why they were lost."""

from typing import Any

from ray.train import UserCallback

from mail.errors import full_disk
from pipelines.cluster_session.errors import inside, user_error


class EndOnWrongInput(UserCallback):
    """Ends the run where a worker met a wrong input (UserError) or a full disk, which the next one would meet again.

    `FailureConfig` is for lost workers and knows no kinds; but what a callback raises ends a run at once, and the
    controller then stops the workers that still wait for the one with the error.
    """

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        for error in worker_exceptions.values():
            if wrong := user_error(error) or next(filter(None, map(full_disk, inside(error))), None):
                raise wrong


class Watch(EndOnWrongInput):
    """Also tells the driver and Prometheus of lost workers.

    Args:
        run: name of the run. mailbox: the actor that the driver takes from.
    """

    def __init__(self, run: str, mailbox: Any):
        self._run, self._mailbox = run, mailbox

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        from pipelines.training.prometheus import count_errors

        super().after_exception(run_context, worker_exceptions)
        reasons = {str(rank): reason(error) for rank, error in worker_exceptions.items()}
        self._mailbox.put.remote("lost", reasons)
        count_errors(self._run, reasons)


def reason(error: BaseException) -> str:
    """Kind and first line of what a worker ended with."""
    own = getattr(error, "cause", None) or error  # Ray wraps what a worker raised
    return f"{type(own).__name__}: {(str(own).splitlines() or [''])[0][:200]}"
