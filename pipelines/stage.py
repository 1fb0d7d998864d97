"""What every stage of the command line has in common.

A stage is a keyword-only dataclass whose fields are its command-line flags (a docstring under each field is its help).
`plan` resolves the config into what would be done, without doing anything; `run` does it, prints progress while it
works and one line about what it wrote. Ray, torch and MLflow are imported inside `run`, so that `--help` stays quick.
"""

import abc
import dataclasses
import json
from typing import Annotated, Any

import tyro

from mail.addresses import without_secrets
from pipelines.ending import EndRequested
from pipelines.options import Options


@dataclasses.dataclass(kw_only=True)
class Stage(Options, abc.ABC):
    """Base of every subcommand."""

    dry_run: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print the resolved config and plan, and do nothing."""

    @abc.abstractmethod
    def plan(self) -> dict[str, Any]:
        """What `run` would do and what it would cost, ready for JSON. Raises UserError on wrong input."""

    @abc.abstractmethod
    def run(self) -> Any:
        """Does it; the return value is for callers in Python, not printed."""

    def tell_kept(self, end: EndRequested) -> None:
        """Has a request to end say what of the stage's work is there, and what the same command needs to go on."""

    def execute(self) -> None:
        self.check_stores()
        if not self.dry_run:
            try:
                self.run()
            except EndRequested as end:
                self.tell_kept(end)
                raise
            return
        config = dataclasses.asdict(self)
        found = {"stage": type(self).__name__, "config": config, "plan": self.plan()}
        print(without_secrets(json.dumps(found, indent=2, default=str)))
