"""What a worker raised reaches the person as it was raised there, however Ray wraps it."""

import pytest

from mail.errors import UserError
from pipelines.cluster_session.errors import user_error


class Refusing:
    def __init__(self) -> None:
        raise UserError("there are no weights")

    def work(self) -> None: ...


def task(wrong: bool) -> None:
    if wrong:
        raise UserError("photo 7 is broken")
    try:
        raise UserError("handled")
    except UserError:
        raise RuntimeError("a bug") from None


@pytest.mark.cluster
@pytest.mark.usefixtures("ray_cluster")
def test_a_wrong_input_is_found_in_what_ray_makes_of_it():
    import ray

    def met(reference: object) -> UserError | None:
        with pytest.raises(ray.exceptions.RayError) as raised:
            ray.get(reference)
        return user_error(raised.value)

    assert str(met(ray.remote(task).remote(True))) == "photo 7 is broken"
    assert str(met(ray.remote(Refusing).remote().work.remote())) == "there are no weights"
    assert met(ray.remote(task).remote(False)) is None


def test_a_wrong_input_is_found_in_a_printed_stack_trace_only_at_its_end():
    trace = "Traceback (most recent call last):\n  File ...\nmail.errors.UserError: no photo"
    assert str(user_error(RuntimeError(trace))) == "no photo"
    assert user_error(RuntimeError(f"{trace}\n\nTraceback (most recent call last):\nKeyError: 1")) is None
