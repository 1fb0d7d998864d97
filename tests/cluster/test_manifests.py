"""What an operator applies and types: manifests fit KubeRay's own schemas, command lines are the parser's."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from pipelines.cli import parse
from pipelines.stage import Stage

ROOT = Path(__file__).resolve().parents[2]
SCHEMAS = ROOT / "../shared/schemas/kuberay"
MANIFESTS = sorted((ROOT / "cluster" / "kuberay").glob("*.yaml"))
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "cluster").rglob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]


def load(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text())


def closed(schema: Any) -> Any:
    """The schema, with fields that it does not name refused: Kubernetes would drop them without a word."""
    if isinstance(schema, list):
        return [closed(s) for s in schema]
    if not isinstance(schema, dict):
        return schema
    result = {key: closed(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and "additionalProperties" not in schema:
        preserving = schema.get("x-kubernetes-preserve-unknown-fields", False)
        result["additionalProperties"] = bool(preserving)
    return result


def command_lines(text: str) -> list[list[str]]:
    """The arguments of every `mail-ris STAGE ...` and `python -m pipelines STAGE ...` in a document's code blocks."""
    found = []
    for block in re.findall(r"(?ms)^```(?:bash|sh)?\n(.*?)^```", text):
        for line in block.replace("\\\n", " ").splitlines():
            if call := re.search(r"(?:^|-- )(?:mail-ris|python -m pipelines) (.*)", line):
                found.append(shlex.split(call[1], comments=True))
    return found


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda p: p.name)
def test_manifest_fits_the_schema(path: Path) -> None:
    manifest = load(path)
    schema = SCHEMAS / f"{manifest['kind'].lower()}.v1.json"
    if not schema.exists():
        pytest.skip(f"KubeRay's schemas are not at {SCHEMAS}")
    jsonschema.validate(manifest, closed(json.loads(schema.read_text())))


def test_cluster_requires_a_token_and_keeps_work_off_the_head() -> None:
    spec = load(ROOT / "cluster/kuberay/raycluster.yaml")["spec"]
    assert spec["authOptions"] == {"mode": "token"}
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert spec["headGroupSpec"]["serviceType"] == "ClusterIP"


def test_cluster_runs_the_locked_ray() -> None:
    locked = re.search(r"(?m)^ray==(\S+)", (ROOT / "requirements.lock").read_text())
    assert locked
    assert load(ROOT / "cluster/kuberay/raycluster.yaml")["spec"]["rayVersion"] == locked[1]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_command_line_in_the_documents_is_understood(path: Path) -> None:
    for arguments in command_lines(path.read_text()):
        assert isinstance(parse(arguments), Stage)


def test_documents_have_command_lines() -> None:
    assert len(command_lines((ROOT / "README.md").read_text())) > 5
    assert len(command_lines((ROOT / "cluster/README.md").read_text())) > 3
