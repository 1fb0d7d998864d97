"""Sits beside Ray Train's controller, which outlives the workers, and tells why they were lost."""

from typing import Any

from ray.train import UserCallback

from mail.errors import UserError


class Watch(UserCallback):
    """Tells the driver and Prometheus of lost workers, and ends the training where the input is wrong.

    Args:
        run: name of the run. mailbox: the actor that the driver takes from.
    """

    def __init__(self, run: str, mailbox: Any):
        self._run, self._mailbox = run, mailbox

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        from pipelines.training.prometheus import count_errors

        for error in map(own, worker_exceptions.values()):
            if isinstance(error, UserError):
                raise error  # an error of the controller, which is final: another worker would meet the same
        reasons = {str(rank): reason(error) for rank, error in worker_exceptions.items()}
        self._mailbox.lost.remote(reasons)
        count_errors(self._run, reasons)


def own(error: BaseException) -> BaseException:
    """What a worker raised; Ray wraps it."""
    return getattr(error, "cause", None) or error


def reason(error: BaseException) -> str:
    """Kind and first line of what a worker ended with."""
    error = own(error)
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"
