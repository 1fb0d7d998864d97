"""The walls between the packages, and what may never be in the repository."""

import ast
import functools
import graphlib
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MODULES = sorted([*(ROOT / "mail").rglob("*.py"), *(ROOT / "pipelines").rglob("*.py")])

# Each room imports only from those before it. Rooms that stand in one line do not know each other.
ORDER = (
    ("mail.errors", "mail.pinned", "mail.rle", "mail.waiting", "pipelines.surroundings", "pipelines.processes"),
    ("mail.addresses", "mail.json_text"),
    ("mail.proposals", "mail.inventory", "mail.mask_formats"),
    ("mail.data", "mail.model"),
    ("mail.metrics", "mail.proposers", "mail.report"),
    ("mail.ingredients",),
    ("mail.leakage", "mail.lineage", "mail.inference"),
    ("mail.training", "mail.audit", "mail.answering"),
    ("mail.evaluation",),
    ("pipelines.options", "pipelines.ending"),
    ("pipelines.terminal", "pipelines.stage"),
    ("pipelines.cluster_session", "pipelines.registry", "pipelines.claiming"),
    (
        "pipelines.precomputing",
        "pipelines.training",
        "pipelines.evaluating",
        "pipelines.serving",
        "pipelines.downloading",
    ),
    ("pipelines.demonstrating", "pipelines.finetuning", "pipelines.reproducing"),
    ("pipelines.stages", "pipelines.refusals"),
    ("pipelines.cli",),
    ("pipelines.__main__",),
)
ROOMS = {room: place for place, rooms in enumerate(ORDER) for room in rooms}

LIBRARIES = ("ray", "mlflow", "transformers", "torch", "torchvision")
NOT_PUBLIC = ("ray.train" + ".v2",)  # what is public of it has its documented name in ray.train
ALLOWED = {
    "_asdict",  # of named tuples, documented; the underscore only keeps them apart from the fields
    "_fields",
    "_replace",
    "_exit",  # of os, documented: ends a process at once, without the clean-up of libraries
    "_Unpickler",  # Python's own interpreter of pickles in Python; restricted_pickle.py says why it has to be that one
}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@functools.cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def imports_of(path: Path) -> set[str]:
    """Absolute names of all that a file imports; `from a import b` gives both `a` and `a.b`."""
    names: set[str] = set()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide what depends on what"
            names |= {str(node.module)} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def is_within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def tracked_files() -> list[Path]:
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listing.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listing.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_mail_names_neither_ray_nor_mlflow_nor_the_stages() -> None:
    for path in MODULES:
        if module_name(path).split(".")[0] == "mail":
            roots = {name.split(".")[0] for name in imports_of(path)}
            assert not roots & {"ray", "mlflow", "pipelines"}, path


def is_private(name: str) -> bool:
    """Whether a dotted name is a library's own affair: a part of it begins with an underscore, dunders excepted."""
    if any(is_within(name, inner) for inner in NOT_PUBLIC):
        return True
    return any(part.startswith("_") and not part.endswith("__") for part in name.split("."))


def names_given_here(trees: Iterable[ast.AST]) -> set[str]:
    """What this code itself names: functions, classes, variables and fields, attributes of `self`."""
    names: set[str] = set()
    for node in (node for tree in trees for node in ast.walk(tree)):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                names.add(name)
            case ast.Name(id=name, ctx=ast.Store()):
                names.add(name)
            case ast.Attribute(value=ast.Name(id="self" | "cls"), attr=name, ctx=ast.Store()):
                names.add(name)
    return names


def foreign_privates(tree: ast.AST, given_here: set[str]) -> Iterator[str]:
    """What a file uses of the libraries' private parts: imports, attributes, options, names in strings."""
    bound: dict[str, str] = {}
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=aliases):
                bound |= {a.asname or a.name.split(".")[0]: a.name for a in aliases}
            case ast.ImportFrom(module=module, names=aliases):
                bound |= {a.asname or a.name: f"{module}.{a.name}" for a in aliases}
    yield from (name for name in bound.values() if name.split(".")[0] in LIBRARIES and is_private(name))
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(attr=name) if is_private(name):
                if is_library(node, bound) or name not in given_here | ALLOWED:
                    yield ast.unparse(node)
            case ast.Call(keywords=options) if is_library(node.func, bound):
                yield from (f"{ast.unparse(node.func)}({o.arg}=...)" for o in options if o.arg and is_private(o.arg))
            case ast.Constant(value=str(text)):
                dotted = re.findall(rf"\b(?:{'|'.join(LIBRARIES)})(?:\.\w+)+", text)
                yield from (name for name in dotted if is_private(name))


def is_library(node: ast.AST, bound: dict[str, str]) -> bool:
    """Whether an expression is a dotted name that begins in one of the libraries."""
    while isinstance(node, ast.Attribute):
        node = node.value
    return isinstance(node, ast.Name) and bound.get(node.id, "").split(".")[0] in LIBRARIES


def test_of_the_libraries_only_the_public_parts_are_used() -> None:
    trees = {path: tree_of(path) for path in tracked_files() if path.suffix == ".py"}
    given_here = names_given_here(trees.values())
    for path, tree in trees.items():
        assert not list(foreign_privates(tree, given_here)), path.relative_to(ROOT)


@pytest.mark.parametrize(
    "code",
    [
        "import ray.~private.utils",
        "from ray import ~raylet",
        "from ray.train import v2",
        "import torch as t; t.hub.~hub_dir",
        "import ray; ray.init(~temp_dir='/tmp')",
        "storage.~cdata",
        "context.~max_blocks = 1",
        "patch('torch.hub.~hub_dir')",
    ],
)
def test_private_parts_are_found(code: str) -> None:
    tree = ast.parse(code.replace("~", "_"))  # written so that this file does not find itself
    assert list(foreign_privates(tree, names_given_here([tree])))


def test_ones_own_private_parts_and_dunders_are_not_meant() -> None:
    code = "import torch\nclass A:\n    def _go(self): self._x = torch.__version__\nA()._go()\nA()._x\ncounts._asdict()"
    tree = ast.parse(code)
    assert not list(foreign_privates(tree, names_given_here([tree])))


@pytest.mark.cluster
def test_importing_all_of_mail_loads_neither_ray_nor_mlflow() -> None:
    names = [module_name(path) for path in MODULES if module_name(path).split(".")[0] == "mail"]
    program = (
        "import importlib, sys\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
        "print(*sorted({'ray', 'mlflow', 'pipelines'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == ""


def room_of(module: str) -> str:
    return ".".join(module.split(".")[:2])


@functools.cache
def graph() -> dict[str, set[str]]:
    """Which module of ours imports which, imports inside functions and for types counted."""
    known = {module_name(path) for path in MODULES}
    edges: dict[str, set[str]] = {module: set() for module in known}
    for path in MODULES:
        for node in ast.walk(tree_of(path)):
            found: set[str] = set()
            if isinstance(node, ast.Import):
                found = {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                # `from mail.data import files` goes through a package only to get at a module in it
                inside = {f"{node.module}.{alias.name}" for alias in node.names}
                found = (inside & known) | ({str(node.module)} if inside - known else set())
            edges[module_name(path)] |= found & known - {module_name(path)}
    return edges


def test_every_room_imports_only_from_those_before_it() -> None:
    for module, imported in graph().items():
        if module in ("mail", "pipelines"):
            continue
        for other in imported - {"mail", "pipelines"}:
            here, there = room_of(module), room_of(other)
            assert here == there or ROOMS[there] < ROOMS[here], f"{module} imports {other}"


def test_no_modules_import_each_other_in_a_circle() -> None:
    order = graphlib.TopologicalSorter(graph())
    order.prepare()  # raises CycleError, which names the circle


def test_wings_know_nothing_of_stages_and_the_registry_of_no_other_wing() -> None:
    wings = {room for room in ROOMS if room.startswith("pipelines.")} - {"pipelines.stages", "pipelines.cli"}
    for module, imported in graph().items():
        rooms = {room_of(other) for other in imported} - {room_of(module)}
        if room_of(module) in wings - {"pipelines.__main__"}:
            assert "pipelines.stages" not in rooms, module
        if room_of(module) == "pipelines.registry":
            below = {"pipelines.terminal", "pipelines.processes"}  # which are no wings
            assert not {r for r in rooms if r.startswith("pipelines.")} - below, module


def test_only_one_module_takes_addresses_apart() -> None:
    parsing = re.compile(r"urlparse|urlsplit|as_uri\(|abspath\(|\.absolute\(\)|expanduser\(|fs\.FileSystem\.from_uri")
    schemes = re.compile(r"(s3|file|sqlite|models):/+")
    for path in MODULES:
        # the mask table's own objects go with the commit log
        if module_name(path) == "mail.addresses":
            continue
        text = path.read_text()
        assert not parsing.search(text), path.relative_to(ROOT)
        for node in ast.walk(tree_of(path)):
            # a text that is nothing but a scheme is there to be compared, cut off or glued
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert not schemes.fullmatch(node.value), (
                    f"{path.relative_to(ROOT)}, line {node.lineno}: {node.value!r}"
                )


def test_nobody_calls_a_stage_to_evaluate_train_or_precompute() -> None:
    for module, imported in graph().items():
        stages = {other for other in imported if is_within(other, "pipelines.stages")}
        assert not stages & {f"pipelines.stages.{s}" for s in ("evaluate", "train", "precompute")}, module


def test_every_file_fits_in_a_head() -> None:
    for path in MODULES:
        assert len(path.read_text().splitlines()) <= 300, path.relative_to(ROOT)


def test_stages_import_no_heavy_library_before_they_run() -> None:
    program = (
        "import importlib, sys\n"
        "from pipelines.cli import STAGES, load\n"
        "for name in STAGES: load(name)\n"
        "print(*sorted({'torch', 'ray', 'mlflow', 'transformers', 'torchvision'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == ""


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_every_module_says_what_it_is_for(path: Path) -> None:
    assert ast.get_docstring(tree_of(path))


def test_the_repository_names_no_machine_and_no_package_index() -> None:
    # the words are put together here, or this file would find itself
    machine = re.compile(r"(?<![\w.$}])/(?:wo" + r"rk|ro" + r"ot|ho" + r"me/\w+|Us" + r"ers/\w+)/\w")
    index = re.compile(r"(?:index-url|extra-index|find-links)\s*[= ]\s*(?:https?|file):|https?://[\w.-]+/simple\b")
    for path in tracked_files():
        if path.suffix in (".png", ".jpg", ".parquet"):
            continue
        text = path.read_text(errors="replace")
        for pattern in (machine, index):
            found = pattern.search(text)
            assert not found, f"{path.relative_to(ROOT)}: {found[0]!r}" if found else ""


def test_no_tracked_file_is_weights_or_data() -> None:
    for path in tracked_files():
        assert path.suffix not in (".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".parquet"), path
        assert path.stat().st_size < 2_000_000, f"{path} is large for a repository of text"


def test_the_lock_has_hashes_and_no_hosts() -> None:
    text = (ROOT / "requirements.lock").read_text()
    assert "://" not in text
    pins = re.findall(r"(?m)^[A-Za-z0-9][\w.\-\[\],]*==\S+(?: ;[^\\\n]*)? *(\\?)$", text)
    assert len(pins) > 100
    assert all(pins), "a pin without hashes"
