"""`mail-ris tune`: a sweep over any options of `train`, with Ray Tune; trials that fall behind end early (ASHA).

    mail-ris tune --name STUDY --trials 12 --space learning-rate=log:1e-4:1e-2 model.decoder-dim=16,24,32 \
        --preset tiny --data STORE --masks TABLE

    OUT/study.json                   what the study is, and its result
    OUT/trials/ID/                   the folder of each trial's run, as `train` leaves it
    OUT/tune/                        what Ray Tune remembers

Each trial is a run of `train`, shown in MLflow under one run of the study. Killed anywhere, the same command with
`--resume` goes on: finished trials stay, interrupted ones go on from their newest checkpoints.
"""

from dataclasses import dataclass
from typing import Any

from pipelines.ending import EndRequested
from pipelines.stage import Stage
from pipelines.training.config import StudyConfig
from pipelines.training.space import read_space


@dataclass(kw_only=True)
class Tune(StudyConfig, Stage):
    """Trains many times, over ranges of any option of `train`; trials that fall behind end early."""

    def plan(self) -> dict[str, Any]:
        from pipelines.training.driver import prepare

        space = {option: r.describe() for option, r in read_space(self).items()}
        return {"space": space, "trials": self.trials, **prepare(self)[0].describe()}

    def run(self) -> dict[str, Any]:
        """Runs all trials; what comes back is `pipelines.training.study.study`'s."""
        from pipelines.training.study import study

        return study(self)

    def tell_kept(self, end: EndRequested) -> None:
        from pipelines.training.kept import tell_study

        tell_study(end, self)
