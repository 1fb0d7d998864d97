"""The command line: one subcommand a stage, flags and help generated from the stage's dataclass.

Only the module of the chosen stage is imported, so that `mail-ris STAGE --help` answers at once. The names here and the
stages' field names are promises: people script against them, and a test freezes them.
"""

import difflib
import importlib
import inspect
import sys
from collections.abc import Sequence
from typing import NamedTuple

from mail import __version__
from mail.errors import UserError
from pipelines.stage import Stage

PROGRAM = "mail-ris"


class Entry(NamedTuple):
    """What a stage's module in `pipelines.stages` offers: a Stage class, or a dict of them for a group of stages."""

    attribute: str
    help: str


STAGES = {
    "demo": Entry("Demo", "The whole chain on a generated data set, in minutes, on a CPU."),
    "prepare": Entry("PREPARE", "A published data set's own files -> a data store."),
    "data": Entry("DATA", "Looks after data stores."),
    "train-proposer": Entry("TrainProposer", "COCO-format instances -> a Mask R-CNN that proposes masks."),
    "import-proposer": Entry("ImportProposer", "Published Mask R-CNN or Mask2Former weights -> a proposer."),
    "precompute": Entry("Precompute", "Data store + proposer -> rows in the mask table."),
    "masks": Entry("MASKS", "Looks after the mask table."),
    "train": Entry("Train", "Data store + mask table + preset -> checkpoints and an MLflow run."),
    "fine-tune": Entry("FineTune", "A trained model + your photos and sentences -> a better model, and by how much."),
    "tune": Entry("Tune", "Trains many times, over ranges of any option; poor trials end early."),
    "evaluate": Entry("Evaluate", "Model + data store + split -> predictions, metrics, gallery."),
    "score": Entry("Score", "Anyone's predictions file + data store + split -> the same metrics."),
    "reproduce": Entry("Reproduce", "Published data sets -> the table of the paper, with our figures beside it."),
    "predict": Entry("Predict", "One image + one expression -> the mask of what it names."),
    "serve": Entry("Serve", "A registered model -> HTTP endpoint and page; follows the champion."),
    "models": Entry("MODELS", "Registered models: what there is, which one is the champion."),
}


def load(name: str) -> type[Stage] | dict[str, type[Stage]]:
    """The stage or the group of a name in `STAGES`."""
    module = importlib.import_module(f"pipelines.stages.{name.replace('-', '_')}")
    return getattr(module, STAGES[name].attribute)


def parse(argv: Sequence[str]) -> Stage:
    """The stage that the arguments describe, ready to `execute`.

    Raises:
        UserError: there is no such stage.
        SystemExit: 0 after help or version was printed, 2 after a message about wrong flags.
    """
    if argv and argv[0] in ("-V", "--version"):
        print(f"{PROGRAM} {__version__}")
        raise SystemExit(0)
    helps = {name: entry.help for name, entry in STAGES.items()}
    name, rest = _choose(argv, helps, PROGRAM, "Referring image segmentation, stage by stage.")
    program, stage = f"{PROGRAM} {name}", load(name)
    if isinstance(stage, dict):
        helps = {kind: (inspect.getdoc(member) or "").split("\n\n")[0] for kind, member in stage.items()}
        kind, rest = _choose(rest, helps, program, STAGES[name].help)
        program, stage = f"{program} {kind}", stage[kind]
    import tyro

    return tyro.cli(stage, args=rest, prog=program)


def _choose(argv: Sequence[str], helps: dict[str, str], program: str, title: str) -> tuple[str, list[str]]:
    """Splits the subcommand off the arguments; prints the list of them where none is named."""
    if not argv or argv[0].startswith("-"):
        asked = bool(argv) and argv[0] in ("-h", "--help")
        if argv and not asked:
            raise UserError(f"{argv[0]} must come after the name of a stage (`{program} --help` lists them)")
        print(_overview(helps, program, title), file=sys.stdout if asked else sys.stderr)
        raise SystemExit(0 if asked else 2)
    name = argv[0]
    if name not in helps:
        close = difflib.get_close_matches(name, helps, n=1)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(helps)}"
        raise UserError(f"there is no `{program} {name}`: {hint}")
    return name, list(argv[1:])


def _overview(helps: dict[str, str], program: str, title: str) -> str:
    width = max(map(len, helps))
    lines = [f"usage: {program} STAGE [OPTIONS]", "", title, ""]
    lines += [f"  {name:<{width}}  {' '.join(text.split())}" for name, text in helps.items()]
    lines += [
        "",
        f"`{program} STAGE --help` explains every option; `--dry-run` prints the plan and does nothing.",
        f"`{program.replace(PROGRAM, 'python -m pipelines', 1)} STAGE` is the same, also under `ray job submit`.",
    ]
    return "\n".join(lines)
