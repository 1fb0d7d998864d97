"""What an operator applies and types: manifests fit KubeRay's own schemas, command lines are the parser's."""

import functools
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from pipelines.cli import parse
from pipelines.stage import Stage

ROOT = Path(__file__).resolve().parents[2]
SCHEMAS = ROOT / "../shared/schemas/kuberay"
CLUSTER = ROOT / "cluster"
MANIFESTS = [p for p in sorted((CLUSTER / "kuberay").rglob("*.yaml")) if "ray.io/v1" in p.read_text()]
JOBS = sorted((CLUSTER / "kuberay" / "jobs").glob("*.yaml"))
YAML = sorted(CLUSTER.rglob("*.yaml"))
DOCKERFILES = sorted(CLUSTER.rglob("Dockerfile*"))
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "cluster").rglob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]


def load(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text())


def every(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """All mappings of a document, with where they are."""
    if isinstance(value, dict):
        yield path, value
        for key, below in value.items():
            yield from every(below, f"{path}.{key}")
    elif isinstance(value, list):
        for below in value:
            yield from every(below, path)


def pods() -> list[tuple[str, dict[str, Any]]]:
    """The specs of all pods that the manifests describe."""
    found = []
    for path in YAML:
        for document in yaml.safe_load_all(path.read_text()):
            found += [(path.name, v["spec"]) for p, v in every(document) if "containers" in v.get("spec", {})]
            assert document
    return found


@functools.cache
def validator(schema: Path) -> Any:
    """Of KubeRay's schema of a kind, which has a megabyte and serves many manifests."""
    content = closed(json.loads(schema.read_text()))
    return jsonschema.validators.validator_for(content)(content)


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
    for block in re.findall(r"(?ms)^```(?:bash|sh)?\n(.*?)^```", re.sub(r"(?ms)^```python\n.*?^```\n", "", text)):
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
    validator(schema).validate(manifest)


def test_cluster_requires_a_token_and_keeps_work_off_the_head() -> None:
    spec = load(ROOT / "cluster/kuberay/raycluster.yaml")["spec"]
    assert spec["authOptions"] == {"mode": "token"}
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert spec["headGroupSpec"]["serviceType"] == "ClusterIP"


def test_cluster_runs_the_locked_ray() -> None:
    locked = re.search(r"(?m)^ray==(\S+)", (ROOT / "requirements.lock").read_text())
    assert locked
    assert load(ROOT / "cluster/kuberay/raycluster.yaml")["spec"]["rayVersion"] == locked[1]


@pytest.mark.parametrize("path", JOBS, ids=lambda p: p.stem)
def test_the_command_of_a_job_is_understood(path: Path) -> None:
    spec = load(path)["spec"]
    program, arguments = spec["entrypoint"].split(" -m pipelines ")
    assert program == "python"
    assert isinstance(parse(shlex.split(arguments)), Stage)
    assert arguments.split()[0] == path.stem
    assert spec["clusterSelector"] == {"ray.io/cluster": load(CLUSTER / "kuberay/raycluster.yaml")["metadata"]["name"]}


def test_there_is_a_job_for_each_stage_that_runs_on_the_cluster() -> None:
    assert {p.stem for p in JOBS} == {"prepare", "train-proposer", "precompute", "train", "tune", "evaluate"}


def test_no_pod_runs_as_root_or_can_become_it() -> None:
    assert len(pods()) > 8
    for name, pod in pods():
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert pod["securityContext"]["runAsUser"] > 0, name
        for container in pod["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False, name
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}, name


def test_no_secret_stands_in_a_file() -> None:
    for path in YAML:
        for document in yaml.safe_load_all(path.read_text()):
            assert document.get("kind") != "Secret", path
            for _, mapping in every(document):
                for key, value in mapping.items():
                    secret = re.search("(?i)password|secret_access_key|access_key_id", key)
                    if secret and isinstance(value, str) and key.isupper():
                        assert value.startswith("${") or value == "mlflow", (path, key)
                if re.search("(?i)password|secret|access_key", str(mapping.get("name", ""))) and "value" in mapping:
                    raise AssertionError(f"{path}: {mapping['name']} has a value, not a reference")


def test_the_network_policy_lets_nobody_to_the_jobs_port_but_the_cluster_and_its_operator() -> None:
    policies = list(yaml.safe_load_all((CLUSTER / "kuberay/network-policy.yaml").read_text()))
    ray = next(p["spec"] for p in policies if p["metadata"]["name"] == "mail-ris-ray")
    assert ray["policyTypes"] == ["Ingress"]
    own = {"matchLabels": ray["podSelector"]["matchLabels"]}
    for rule in ray["ingress"]:
        assert rule["from"], "an empty `from` is everybody"
        ports = {p["port"] for p in rule.get("ports", [])}
        for who in rule["from"]:
            if not ports:
                assert who == {"podSelector": own}
            if 8265 in ports:
                assert "podSelector" in who


def test_spot_workers_have_time_to_save() -> None:
    groups = load(CLUSTER / "kuberay/raycluster.yaml")["spec"]["workerGroupSpecs"]
    spot = next(g["template"]["spec"] for g in groups if g["groupName"] == "gpu-spot")
    hook = spot["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][-1]
    deadline = re.search(r"--deadline-remaining-seconds (\d+)", hook)
    assert deadline
    assert int(deadline[1]) < spot["terminationGracePeriodSeconds"]


def test_ray_commands_in_the_manifests_are_understood() -> None:
    from ray.scripts.scripts import cli

    lines = [c for p, v in every(load(CLUSTER / "ray-up/aws.yaml")) for k, c in v.items() if k.endswith("ray_commands")]
    commands = [shlex.split(c) for group in lines for c in group]
    groups = load(CLUSTER / "kuberay/raycluster.yaml")["spec"]["workerGroupSpecs"]
    hook = groups[-1]["template"]["spec"]["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][-1]
    commands.append(shlex.split(re.sub(r'"\$\(.*?\)"', "ID", hook).split(" && ")[0]))
    assert len(commands) == 3
    for program, command, *arguments in commands:
        assert program == "ray"
        cli.commands[command].make_context(command, arguments)


def test_the_servers_of_mlflow_are_started_as_it_wants() -> None:
    from mlflow.cli import cli

    compose = load(CLUSTER / "mlflow/compose.yaml")["services"]["mlflow"]["command"][2:]
    kubernetes = list(yaml.safe_load_all((CLUSTER / "mlflow/kubernetes.yaml").read_text()))
    deployment = next(d for d in kubernetes if d["kind"] == "Deployment")
    in_pod = deployment["spec"]["template"]["spec"]["containers"][0]["args"]
    for arguments in (compose, in_pod):
        context = cli.commands["server"].make_context("server", list(arguments))
        assert context.params["artifacts_destination"]
        assert context.params["backend_store_uri"].startswith("postgresql://")


def test_ray_up_reads_its_file() -> None:
    import ray.autoscaler

    schema = json.loads(Path(ray.autoscaler.__file__).with_name("ray-schema.json").read_text())
    config = load(CLUSTER / "ray-up/aws.yaml")
    jsonschema.validate(config, schema)
    assert config["available_node_types"][config["head_node_type"]]["resources"] == {"CPU": 0}
    assert all("--dashboard-host=127.0.0.1" in c for c in config["head_start_ray_commands"])


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda p: str(p.relative_to(CLUSTER)))
def test_the_linter_finds_nothing_in_an_image(path: Path) -> None:
    linter = Path(sys.executable).with_name("hadolint")
    found = subprocess.run([linter, "--failure-threshold", "style", path], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout
    assert re.search(r"(?m)^USER \d+$", path.read_text())


def test_the_image_without_cuda_keeps_every_other_package_and_its_hashes() -> None:
    from cluster.without_cuda import split

    lock = (ROOT / "requirements.lock").read_text()
    locked, torch = split(lock)
    assert re.findall(r"(?m)^(\w+)==", torch) == ["torch", "torchvision"]
    before, after = (set(re.findall(r"(?m)^([\w.-]+)(?:\[.*\])?==", text)) for text in (lock, locked))
    gone = before - after - {"torch", "torchvision"}
    assert gone
    assert all(name.startswith(("nvidia-", "cuda-")) or name == "triton" for name in gone)
    assert lock.count("--hash=") > locked.count("--hash=") > 0.8 * lock.count("--hash=")


def test_the_dashboard_draws_what_training_exports() -> None:
    from pipelines.training.prometheus import COUNTERS, GAUGES

    exported = {f"ray_mail_train_{key.lower()}" for key in GAUGES} | {f"ray_{name}" for name in COUNTERS}
    dashboard = json.loads((CLUSTER / "grafana/mail-training.json").read_text())
    drawn = set()
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            drawn |= set(re.findall(r"ray_mail_\w+", target["expr"]))
    assert drawn == exported


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_command_line_in_the_documents_is_understood(path: Path) -> None:
    for arguments in command_lines(path.read_text()):
        assert isinstance(parse(arguments), Stage)


def test_documents_have_command_lines() -> None:
    assert len(command_lines((ROOT / "README.md").read_text())) > 5
    assert len(command_lines((ROOT / "cluster/README.md").read_text())) > 3
