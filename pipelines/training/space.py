"""What a study varies: ranges of the options of `train`, read as its own command line would read them."""

import contextlib
import difflib
import io
from dataclasses import dataclass, fields
from typing import Any

import tyro

from mail.errors import UserError
from pipelines.training.config import ModelOverrides, StudyConfig, TrainConfig


@dataclass(frozen=True)
class Range:
    """What an option may be in a trial.

    Attributes:
        option: name of a field of `TrainConfig`, dotted for the network's. choices: values, or the ends of a range.
        kind: `choice`, `uniform` or `log`.
    """

    option: str
    kind: str
    choices: tuple[Any, ...]

    @classmethod
    def parse(cls, text: str) -> "Range":
        """Reads OPTION=A,B,C, OPTION=LOW:HIGH or OPTION=log:LOW:HIGH.

        Raises:
            UserError: the option does not exist, a value does not fit it, or it is no range.
        """
        name, equals, values = text.partition("=")
        option = name.strip().removeprefix("--").replace("-", "_")
        known = {f.name for f in fields(TrainConfig)} - {"model", "name", "out", "resume", "parent_run", "workers"}
        known |= {f"model.{f.name}" for f in fields(ModelOverrides)}
        if not equals or not values:
            raise UserError(f"--space {text!r}: write OPTION=A,B,C or OPTION=LOW:HIGH or OPTION=log:LOW:HIGH")
        if option not in known:
            close = difflib.get_close_matches(option, known, n=1)
            hint = f"did you mean {close[0]}?" if close else "`mail-ris train --help` lists the options"
            raise UserError(f"--space {text!r}: `train` has no option {name.strip()} that can vary; {hint}")
        kind, parts = "choice", values.split(",")
        if ":" in values and len(parts) == 1:
            *marks, low, high = values.split(":")
            if marks not in ([], ["log"]):
                raise UserError(f"--space {text!r}: a range is LOW:HIGH or log:LOW:HIGH")
            kind, parts = ("log" if marks else "uniform"), [low, high]
        found = tuple(_value(option, part.strip(), text) for part in parts)
        if kind != "choice":
            if not all(isinstance(v, int | float) and not isinstance(v, bool) for v in found) or found[0] >= found[1]:
                raise UserError(f"--space {text!r}: a range needs two numbers, the lower one first")
            if kind == "log" and found[0] <= 0:
                raise UserError(f"--space {text!r}: a logarithmic range begins above 0")
        return cls(option, kind, found)

    def describe(self) -> list[Any]:
        return [self.kind, *self.choices]

    def sampler(self) -> Any:
        from ray import tune

        if self.kind == "choice":
            return tune.choice(list(self.choices))
        low, high = self.choices
        if isinstance(low, int) and isinstance(high, int):
            return tune.randint(low, high + 1) if self.kind == "uniform" else tune.lograndint(low, high + 1)
        return tune.uniform(low, high) if self.kind == "uniform" else tune.loguniform(low, high)


def _value(option: str, text: str, where: str) -> Any:
    """A value as `train`'s own command line would read it."""
    required = ["--preset", "p", "--data", "d", "--name", "n"]
    own = next((i for i, a in enumerate(required) if a == f"--{option}"), None)
    if own is not None:
        del required[own : own + 2]
    flag = f"--{option.replace('_', '-')}"
    *path, last = flag.split(".")
    spellings = [[flag, text]]
    if text in ("true", "false"):
        negative = ".".join([*path, f"no-{last}"]) if path else f"--no-{last[2:]}"
        spellings = [[flag, text.capitalize()], [flag if text == "true" else negative]]
    for spelling in spellings:
        with (
            contextlib.suppress(SystemExit),
            contextlib.redirect_stderr(io.StringIO()),
            contextlib.redirect_stdout(io.StringIO()),
        ):
            stage = tyro.cli(TrainConfig, args=[*required, *spelling])
            break
    else:
        raise UserError(f"--space {where!r}: {text!r} is no value of {option}")
    value: Any = stage
    for part in option.split("."):
        value = getattr(value, part)
    return value


def read_space(config: StudyConfig) -> dict[str, Range]:
    """The ranges of a study by option. Raises UserError where something is wrong with them."""
    ranges = [Range.parse(text) for text in config.space]
    if not ranges:
        raise UserError("--space is empty: name at least one option to vary, such as learning-rate=log:1e-4:1e-2")
    if config.trials < 1 or not 0 < config.grace <= 1 or config.reduction < 2:
        raise UserError("--trials must be at least 1, --grace between 0 and 1, --reduction at least 2")
    return {r.option: r for r in ranges}
