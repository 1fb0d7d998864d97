"""What an operator applies beside Kubernetes' own (test_kubernetes.py): images, servers, machines of a cloud."""

import json
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
CLUSTER = ROOT / "cluster"
YAML = sorted(CLUSTER.rglob("*.yaml"))
DOCKERFILES = sorted(CLUSTER.rglob("Dockerfile*"))


def load(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text())


def documents() -> list[tuple[Path, dict[str, Any]]]:
    """Every document of every file."""
    return [(path, document) for path in YAML for document in yaml.safe_load_all(path.read_text())]


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
    for path, document in documents():
        found += [(path.name, v["spec"]) for p, v in every(document) if "containers" in (v.get("spec") or {})]
    return found


def test_cluster_requires_a_token_and_keeps_work_off_the_head() -> None:
    spec = load(ROOT / "cluster/kuberay/raycluster.yaml")["spec"]
    assert spec["authOptions"] == {"mode": "token"}
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert spec["headGroupSpec"]["serviceType"] == "ClusterIP"


def test_cluster_runs_the_locked_ray() -> None:
    locked = re.search(r"(?m)^ray==(\S+)", (ROOT / "requirements.lock").read_text())
    assert locked
    assert load(ROOT / "cluster/kuberay/raycluster.yaml")["spec"]["rayVersion"] == locked[1]


def test_no_pod_runs_as_root_or_can_become_it() -> None:
    assert len(pods()) == 8
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


def test_the_servers_of_mlflow_are_started_as_it_wants(monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.cli import cli

    service = load(CLUSTER / "mlflow/compose.yaml")["services"]["mlflow"]
    kubernetes = list(yaml.safe_load_all((CLUSTER / "mlflow/kubernetes.yaml").read_text()))
    deployment = next(d for d in kubernetes if d["kind"] == "Deployment")
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    environment = {entry["name"]: entry.get("value") for entry in container["env"]}
    for arguments, variables in (
        (service["command"][2:], service["environment"]),
        (container["args"], environment),
    ):
        assert "PASSWORD" not in " ".join(arguments)  # anybody may list processes
        monkeypatch.setenv("MLFLOW_BACKEND_STORE_URI", variables["MLFLOW_BACKEND_STORE_URI"])
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


def test_images_hold_what_the_stages_need_and_no_tools() -> None:
    from cluster.image_requirements import packages, split, without_tools

    lock = (ROOT / "requirements.lock").read_text()
    kept = without_tools(lock)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = [Requirement(line) for line in project["project"]["dependencies"]]
    seen: set[tuple[str, str]] = set()
    while wanted:  # and what they need in turn, as the installed packages say it
        requirement = wanted.pop()
        name = canonicalize_name(requirement.name)
        assert name in kept, name
        for extra in {"", *requirement.extras} - {extra for known, extra in seen if known == name}:
            seen.add((name, extra))
            for line in metadata.requires(name) or []:
                needed = Requirement(line)
                if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                    wanted.append(needed)
    tools = {canonicalize_name(Requirement(line).name) for line in project["dependency-groups"]["dev"]}
    assert kept.keys() & tools == {"jsonschema", "pyyaml"}  # which Ray needs as well
    without_cuda, torch = split(lock)
    assert re.findall(r"(?m)^(\w+)==", torch) == ["torch", "torchvision"]
    gone = kept.keys() - packages(without_cuda).keys() - {"torch", "torchvision"}
    assert gone
    assert all(name.startswith(("nvidia-", "cuda-")) or name == "triton" for name in gone)


def test_no_list_of_what_stays_here_forgets_what_another_names() -> None:
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    kept_from_jobs = (ROOT / ".rayignore").read_text().splitlines()
    assert {line for line in ignored if line and line[0] not in "#!"} <= set(kept_from_jobs)


def test_the_builder_of_an_image_is_sent_what_the_image_copies_and_nothing_else() -> None:
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert lines[0] == "*"
    copied = set()
    for path in CLUSTER.glob("Dockerfile*"):
        for words in re.findall(r"(?m)^COPY (.*) \S+$", path.read_text()):
            copied |= set(words.split())
    assert {line[1:] for line in lines if line.startswith("!")} == copied


def test_the_dashboard_draws_what_training_exports() -> None:
    from pipelines.training.prometheus import COUNTERS, GAUGES

    exported = {f"ray_mail_train_{key.lower()}" for key in GAUGES} | {f"ray_{name}" for name in COUNTERS}
    dashboard = json.loads((CLUSTER / "grafana/mail-training.json").read_text())
    drawn = set()
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            drawn |= set(re.findall(r"ray_mail_\w+", target["expr"]))
    assert drawn == exported
