"""What the program advises can be done: every flag that a message names is an option of a stage that can say it."""

import ast
import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

from pipelines.cli import STAGES, load
from pipelines.refusals import LOWER

FLAG = re.compile(r"(?<![\w-])--([a-z][a-z0-9-]*[a-z0-9](?:\.[a-z-]+)?)(?![\w-])")
# of MLflow's, Git's and Ray's own commands, and of the command line itself
OTHERS = {"experiment-id", "short", "porcelain", "untracked-files", "help", "version", "address"}
# whose options the messages of a room may name: the first that fits
ROOMS = {
    "pipelines/training/proposer": ("train-proposer",),
    "mail/proposers/training": ("train-proposer",),
    "pipelines/training/": ("train", "tune"),
    "mail/training/": ("train",),
    "pipelines/precomputing/": ("precompute",),
    "pipelines/evaluating/": ("evaluate", "score", "models"),
    "pipelines/demonstrating/": ("demo",),
}


def _classes(name: str) -> list[type]:
    found = load(name)
    return list(found.values()) if isinstance(found, dict) else [found]


def _flags(kind: type, prefix: str = "") -> Iterator[str]:
    for field in dataclasses.fields(kind):
        name = prefix + field.name.rstrip("_").replace("_", "-")
        yield from (name, f"no-{name}")
        if field.name == "model" and field.default_factory is not dataclasses.MISSING:
            yield from _flags(field.default_factory, "model.")  # type: ignore[arg-type]


def _texts(file: Path) -> Iterator[tuple[int, str]]:
    """The strings of a module that are no documentation."""
    tree = ast.parse(file.read_text())
    told = {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in told:
            yield node.lineno, node.value


def test_every_flag_in_a_message_exists_in_a_stage_that_says_it(repository: Path) -> None:
    options = {name: {f for kind in _classes(name) for f in _flags(kind)} for name in STAGES}
    everything = set().union(*options.values()) | OTHERS
    wrong = []
    for file in sorted([*(repository / "mail").rglob("*.py"), *(repository / "pipelines").rglob("*.py")]):
        path = file.relative_to(repository).as_posix()
        stages = next((names for room, names in ROOMS.items() if path.startswith(room)), None)
        known = set().union(*(options[n] for n in stages)) | OTHERS if stages else everything
        wrong += [
            f"{path}:{n}: --{flag}" for n, text in _texts(file) for flag in FLAG.findall(text) if flag not in known
        ]
    assert not wrong, "\n".join(wrong)


def test_what_to_lower_where_memory_is_short_is_an_option_of_that_stage() -> None:
    for name, text in LOWER.items():
        assert set(FLAG.findall(text)) <= {f for kind in _classes(name) for f in _flags(kind)}, name
