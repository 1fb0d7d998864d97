"""`mail-ris train`: data store + mask table + preset -> checkpoints, a MODEL folder, an MLflow run, a registered model.

    mail-ris train --preset tiny --data STORE --masks TABLE --name RUN [--workers N] [--resume] [--out DIR]

    OUT/run.json                     what the run is, and whether it is finished
    OUT/checkpoints/start-001/...    checkpoints, per start of the run (each `--resume` is a new start)
    OUT/overlays/step-0000300/...    pictures of some answers, as the training goes
    OUT/model/                       the finished MODEL

Killed anywhere, the same command with `--resume` goes on from the newest complete checkpoint and ends as if nothing had
happened. Lost workers and nodes are replaced without that.
"""

from dataclasses import dataclass
from typing import Any

from pipelines import ending
from pipelines.stage import Stage
from pipelines.terminal import say
from pipelines.training.config import TrainConfig


@dataclass(kw_only=True)
class Train(TrainConfig, Stage):
    """Trains the network and registers it."""

    grace: float = 30.0
    """Seconds for a checkpoint when the run is asked to end (Ctrl-C, SIGTERM, SIGHUP); a second Ctrl-C ends at once."""

    def plan(self) -> dict[str, Any]:
        from pipelines.training.driver import prepare

        return prepare(self)[0].describe()

    def run(self) -> dict[str, Any]:
        """Trains to the end; what comes back is `pipelines.training.driver.train`'s."""
        if (grace := ending.allow(self.grace)) < self.grace:
            say(
                f"`ray job stop` leaves {grace:g} s for a checkpoint: {ending.JOB_PATIENCE}=45 in the environment of "
                "`ray start` gives it all of --grace"
            )
        from pipelines.training.finished import outcome

        if (before := outcome(self)) is not None:  # without loading what a training needs
            return before
        from pipelines.training.driver import train

        return train(self)

    def tell_kept(self, end: ending.EndRequested) -> None:
        from pipelines.training.kept import tell_run

        tell_run(end, self)
