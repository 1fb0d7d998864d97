"""The guides as typed: README.md, cluster/README.md and docs/.

Every shell block is one that a shell understands, and every command in it is one that there is, with options that it
has.
`pytest -m soak tests/test_guides.py` types the blocks of both READMEs and of docs/own-data.md one after the other, in a
copy whose folder has a space and an umlaut, with the sizes below; all but those under a comment
`<!-- not run: WHY -->`.
"""

import ast
import importlib.util
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipelines.cli import parse
from pipelines.stage import Stage

ROOT = Path(__file__).resolve().parents[1]
GUIDES = [ROOT / "README.md", ROOT / "cluster/README.md", *sorted((ROOT / "docs").glob("*.md"))]
NAMES = [str(guide.relative_to(ROOT)) for guide in GUIDES]
# as short as a test wants it; each stands in a guide as it is here
SIZES = {
    "--root runs/scenes --images 1000": "--root runs/scenes --images 60",
    "--images 20000": "--images 8",
    "--out runs/proposer --exclude-store runs/store": "--out runs/proposer --exclude-store runs/store --steps 6",
    "--steps 200": "--steps 6 --validation-expressions 8",
    "--trials 4": "--trials 2",
    "--steps 60": "--steps 4",
}


@dataclass(frozen=True)
class Block:
    """A fenced block of a guide: its language, its text, and why it is not run, where it is not."""

    language: str
    text: str
    not_run: str


def blocks(guide: Path) -> list[Block]:
    """All fenced blocks of a guide, in order."""
    pattern = r"(?ms)(?:^<!-- not run: ([^\n]*) -->\n)?^```(\w+)\n(.*?)^```$"
    return [Block(language, text, why) for why, language, text in re.findall(pattern, guide.read_text())]


def lines(guide: Path) -> list[str]:
    """The command lines of a guide: those of its shell blocks, and those between backticks that are whole."""
    text = re.sub(r"(?ms)<<'END'\n.*?^END$", "", "\n".join(b.text for b in blocks(guide) if b.language == "bash"))
    spans = re.findall(r"`([^`\n]+)`", re.sub(r"(?ms)^```.*?^```$", "", guide.read_text()))
    whole = [
        s
        for s in spans
        if re.match(r"(mail-ris \S+ .*--|python -m |pytest |make )", s) and not re.search(r"\.\.\.|STAGE", s)
    ]
    found = text.replace("\\\n", " ").splitlines() + whole
    return [line for line in found if line.strip() and not line.lstrip().startswith("#")]


def calls(guide: Path, program: str) -> list[list[str]]:
    """The arguments of every call of a program in a guide; those after a bare `--` are a call of their own."""
    found, begin = [], program.split()
    for line in lines(guide):
        words = shlex.shlex(line, posix=True, punctuation_chars=True)
        words.whitespace_split = True
        command: list[str] = []
        for word in [*words, ";"]:
            if word == "--" or set(word) <= set("();<>|&"):
                if command[: len(begin)] == begin:
                    found.append(command[len(begin) :])
                command = []
            else:
                command.append(word)
    return found


@pytest.mark.parametrize("guide", GUIDES, ids=NAMES)
def test_a_shell_understands_every_block(guide: Path) -> None:
    for block in blocks(guide):
        assert block.language in ("bash", "python"), block.text
        if block.language == "python":
            ast.parse(block.text)
            continue
        checked = subprocess.run(["bash", "-n"], input=block.text, capture_output=True, text=True, check=False)
        assert checked.returncode == 0, checked.stderr


@pytest.mark.parametrize("guide", GUIDES, ids=NAMES)
def test_every_stage_has_the_options_it_is_given(guide: Path) -> None:
    for program in ("mail-ris", "python -m pipelines"):
        for arguments in calls(guide, program):
            assert isinstance(parse(arguments), Stage), arguments


def test_every_data_set_that_can_be_prepared_has_an_example() -> None:
    from pipelines.stages.prepare import PREPARE

    shown = {arguments[1] for arguments in calls(ROOT / "README.md", "mail-ris") if arguments[0] == "prepare"}
    assert set(PREPARE) - shown <= {"refcoco+"}  # as refcoco


@pytest.mark.parametrize("guide", GUIDES, ids=NAMES)
def test_every_other_command_is_there(guide: Path) -> None:
    targets = set(re.findall(r"(?m)^([a-z-]+(?: [a-z-]+)*):(?!=)", (ROOT / "Makefile").read_text()))
    targets = {name for line in targets for name in line.split()}
    for target in calls(guide, "make"):
        assert set(target) <= targets
    for script, *_ in calls(guide, "python"):
        assert script == "-m" or (ROOT / script).exists(), script
    for arguments in calls(guide, "python -m"):
        module = importlib.util.find_spec(arguments[0])
        assert module, arguments
        if module.submodule_search_locations:  # a package
            module = importlib.util.find_spec(f"{arguments[0]}.__main__")
            assert module, arguments
        options = set(re.findall(r"add_argument\(\s*\"(--[a-z-]+)", Path(str(module.origin)).read_text()))
        given = {word for word in arguments[1:] if word.startswith("--")}
        assert given <= options or arguments[0] == "pipelines", arguments
    for path in re.findall(r"(?<![\w/])(?:cluster|docs|tests|benchmarks)/[\w./-]+\w", guide.read_text()):
        made_by_the_guide = path == "cluster/kuberay/settings.env"
        assert made_by_the_guide or (ROOT / path).exists() or (guide.parent / path).exists(), path


@pytest.mark.parametrize("guide", GUIDES, ids=NAMES)
def test_ray_takes_what_it_is_given(guide: Path) -> None:
    submitted = calls(guide, "ray job submit")
    if not submitted:
        return
    from ray.scripts.scripts import cli

    for arguments in submitted:
        assert cli.commands["job"].commands["submit"].make_context("submit", [*arguments, "--", "true"])


def test_a_command_for_one_figure_selects_one_test() -> None:
    selecting = calls(ROOT / "docs/benchmarks.md", "pytest")
    assert selecting
    for mark, soak, node in selecting:
        path, name = node.split("::")
        source = (ROOT / path).read_text()
        functions = [node.name for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]
        assert (mark, soak, functions.count(name), "mark.soak" in source) == ("-m", "soak", 1, True), name


def test_every_fault_has_a_test_that_is_there() -> None:
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs/faults.md").read_text()))
    there = {
        n
        for path in (ROOT / "tests").rglob("test_*.py")
        for n in re.findall(r"^def (test_\w+)", path.read_text(), re.M)
    }
    assert named
    assert named <= there, named - there


def test_sizes_stand_in_the_guides() -> None:
    text = "".join((ROOT / name).read_text() for name in ("README.md", "cluster/README.md"))
    for size in SIZES:
        assert size in text, size


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", ["README.md", "cluster/README.md", "docs/own-data.md"])
def test_the_guide_as_typed(name: str, tmp_path: Path) -> None:
    copy = tmp_path / "b äre"
    subprocess.run(["git", "clone", "--quiet", ROOT, copy], check=True)
    script = [
        "set -euo pipefail",
        "make setup",
        ". .venv/bin/activate",
    ]  # an environment of its own, as on a bare machine
    for number, block in enumerate(b for b in blocks(ROOT / name) if not b.not_run):
        text = block.text
        for size, shorter in SIZES.items():
            text = text.replace(size, shorter)
        if block.language == "python":
            (copy / f"block{number}.py").write_text(text)
            text = f"python block{number}.py\n"
        script.append(f"echo '[block {number}]' >&2\n{text}")
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "MLFLOW_", "VIRTUAL_ENV"))}
    environment = clean | {"XDG_CONFIG_HOME": str(tmp_path / "config"), "HF_HUB_OFFLINE": "1"}
    typed = subprocess.run(
        ["bash"], input="\n".join(script), cwd=copy, env=environment, capture_output=True, text=True, check=False
    )
    subprocess.run([sys.executable, "cluster/local_head.py", "down"], cwd=copy, env=environment, check=False)
    assert typed.returncode == 0, typed.stdout[-3000:] + typed.stderr[-6000:]
