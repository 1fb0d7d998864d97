"""The walls between the packages, and what may never be in the repository."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MODULES = sorted([*(ROOT / "mail").rglob("*.py"), *(ROOT / "pipelines").rglob("*.py")])

# package of mail/ -> what of mail/ it must not know of
FORBIDDEN = {
    "mail.data": ("mail.model", "mail.proposers", "mail.training", "mail.metrics", "mail.report", "mail.inference"),
    "mail.model": ("mail.data", "mail.proposers", "mail.training", "mail.metrics", "mail.report", "mail.inference"),
    "mail.metrics": ("mail.model", "mail.proposers", "mail.training", "mail.report", "mail.inference"),
    "mail.proposers": ("mail.model", "mail.training", "mail.report", "mail.inference"),
    "mail.report": ("mail.model", "mail.proposers", "mail.training", "mail.inference"),
}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path: Path) -> set[str]:
    """Absolute names of all that a file imports; `from a import b` gives both `a` and `a.b`."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
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


@pytest.mark.parametrize("package", FORBIDDEN)
def test_dependencies_inside_mail_point_one_way(package: str) -> None:
    for path in MODULES:
        if is_within(module_name(path), package):
            for name in imports_of(path):
                assert not any(is_within(name, other) for other in FORBIDDEN[package]), f"{path} imports {name}"


def test_stages_import_no_heavy_library_before_they_run() -> None:
    program = (
        "import importlib, sys\n"
        "from pipelines.cli import STAGES\n"
        "for entry in STAGES.values(): entry.load()\n"
        "print(*sorted({'torch', 'ray', 'mlflow', 'transformers', 'torchvision'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == ""


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_every_module_says_what_it_is_for(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert not tree.body or ast.get_docstring(tree)


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
