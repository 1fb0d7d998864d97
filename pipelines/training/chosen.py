"""Which checkpoint of a training that has come to its end becomes the model."""

from mail.data import files
from mail.errors import UserError
from mail.training.checkpoint import Saved
from mail.training.curves import Curves
from mail.training.early_stop import is_over
from mail.training.going_on import find_best_whole, find_complete, find_whole
from pipelines.terminal import say
from pipelines.training.run_state import RunState


def find_chosen(state: RunState, steps: int, patience: int, every: int) -> tuple[Saved, Saved]:
    """The checkpoint that becomes the model, and the last one: the same, but with a patience the best is chosen.

    Args:
        steps: of the recipe. patience, every: as of `mail.training.early_stop`; patience 0 chooses the last one.

    Raises:
        UserError: the training has not come to its end, or its last checkpoint is damaged.
    """
    # the model is compared with its digests as it is copied; with a patience what was measured is looked at as well
    last = (find_whole if patience else find_complete)(state.checkpoints, say)
    if last is None or (last.step < steps and not _ended_early(last, patience, every)):
        raise UserError(
            f"{state.folder} has no whole checkpoint of step {steps} to export: go on with --resume, from step "
            f"{last.step if last else 0}"
        )
    best = find_best_whole(state.checkpoints, say) if patience else None
    if best is None:
        return last, last
    if last.step < steps:
        say(f"ended after {last.step} of {steps} steps: none of the last {patience} validations was a better one")
    say(f"the best validation is that of step {best.step} (oIoU {best.oiou:.3f}): it becomes the model")
    return best, last


def _ended_early(last: Saved, patience: int, every: int) -> bool:
    if not patience:
        return False
    with files.local_folder(last.address) as folder:
        return is_over(Curves.load(folder), patience, every)
