"""What is in a run's folder already, and is not the run's."""

from pathlib import Path

import pytest

from mail.errors import UserError
from pipelines.training.run_state import RunState


def test_a_model_that_no_run_made_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    with pytest.raises(UserError, match="holds a model or checkpoints, but no run: choose another --out"):
        RunState.open(str(tmp_path), "first")
    (tmp_path / "model").rmdir()
    assert RunState.open(str(tmp_path), "first").starts == 0
