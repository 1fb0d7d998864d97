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


def test_another_learning_rate_needs_a_reason_that_the_run_keeps() -> None:
    before = {"recipe": {"learning_rate": 1e-3, "seed": 0}}
    state = RunState("/runs/n", "n", before)
    with pytest.raises(UserError, match="--because REASON allows it"):
        state.check_config({"recipe": {"learning_rate": 1e-4, "seed": 0}})
    with pytest.raises(UserError, match=r"recipe\.seed was 0, is 1"):
        state.check_config({"recipe": {"learning_rate": 1e-4, "seed": 1}}, "nan", 4)
    state = RunState("/runs/n", "n", {"recipe": {"learning_rate": 1e-3, "seed": 0}})
    config = {"recipe": {"learning_rate": 1e-4, "seed": 0}}
    state.check_config(config, "the loss became nan", 4)
    noted = [{"step": 4, "learning_rate": [1e-3, 1e-4], "because": "the loss became nan"}]
    assert config["changes"] == noted
    again = {"recipe": {"learning_rate": 1e-4, "seed": 0}}
    RunState("/runs/n", "n", config).check_config(again)  # killed after that, and the same command once more
    assert again["changes"] == noted
