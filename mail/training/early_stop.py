"""When a training ends before its last step: the validation has not become better for a while.

A function of the curves, which travel with the checkpoints: a training that was killed ends where it would have.
"""

from mail.training.curves import Curves


def is_over(curves: Curves, patience: int, every: int) -> bool:
    """Whether the last `patience` validations are all no better than one before them; never for a patience of 0.

    Args:
        every: steps between validations; one in between, as before a machine goes, does not count.
    """
    records = [record for kind, found in curves.by_kind() if kind == "validation" for record in found]
    scores = [record["oIoU"] for record in records if record["step"] % every == 0]
    if patience < 1 or len(scores) <= patience:
        return False
    return max(scores[-patience:]) <= max(scores[:-patience])
