"""What is applied to Kubernetes: filled in at one place, fits KubeRay's schemas, and is not refused by its operator."""

import copy
import functools
import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from cluster.kuberay.check_settings import unfilled
from pipelines.cli import parse
from pipelines.stage import Stage
from tests.cluster.kuberay_rules import refusals

ROOT = Path(__file__).resolve().parents[2]
SCHEMAS = ROOT / "../shared/schemas/kuberay"
KUBERAY = ROOT / "cluster/kuberay"
EXAMPLE = KUBERAY / "settings.example.env"
JOBS = {"prepare", "train-proposer", "precompute", "train", "tune", "evaluate", "reproduce"}
SETTINGS = {
    "REGISTRY": "registry.example.com:5000/team/sub",
    "TAG": "abc123",
    "TORCH_INDEX": "https://wheels.example.com/cpu",
    "BUCKET": "team-bucket",
    "AWS_DEFAULT_REGION": "eu-central-1",
    "AWS_ENDPOINT_URL_S3": "https://s3.example.com",
    "STORAGE_CLASS": "shared-files",
}

Json = dict[str, Any]


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> list[Json]:
    """All resources, with settings filled in, as `kubectl kustomize` prints them."""
    if not (kubectl := shutil.which("kubectl")):
        pytest.skip("kubectl is not installed")
    folder = tmp_path_factory.mktemp("cluster")
    for part in ("kuberay", "mlflow"):
        shutil.copytree(ROOT / "cluster" / part, folder / part)
    (folder / "kuberay/settings.env").write_text("".join(f"{k}={v}\n" for k, v in SETTINGS.items()))
    done = subprocess.run([kubectl, "kustomize", folder / "kuberay"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def of_kind(resources: list[Json], kind: str) -> list[Json]:
    return [r for r in resources if r["kind"] == kind]


@functools.cache
def validator(kind: str) -> Any:
    """Of KubeRay's schema of a kind, which has a megabyte and serves many manifests."""
    path = SCHEMAS / f"{kind.lower()}.v1.json"
    if not path.exists():
        pytest.skip(f"KubeRay's schemas are not at {SCHEMAS}")
    content = closed(json.loads(path.read_text()))
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


def test_resources_fit_the_schemas_and_the_operator_takes_them(rendered: list[Json]) -> None:
    checked = [r for kind in ("RayCluster", "RayJob", "RayService") for r in of_kind(rendered, kind)]
    assert {r["metadata"]["name"] for r in checked} == {"mail-ris", *(f"mail-ris-{job}" for job in (*JOBS, "serve"))}
    for resource in checked:
        assert refusals(resource) == [], resource["metadata"]["name"]
        validator(resource["kind"]).validate(resource)


def test_a_job_is_tried_again_on_a_cluster_of_its_own(rendered: list[Json]) -> None:
    cluster = of_kind(rendered, "RayCluster")[0]["spec"]
    for job in of_kind(rendered, "RayJob"):
        spec = job["spec"]
        assert spec["rayClusterSpec"] == cluster
        assert (spec["backoffLimit"], spec["shutdownAfterJobFinishes"]) == (3, True)
        assert "clusterSelector" not in spec


def test_the_service_is_what_ray_serve_and_we_understand(rendered: list[Json], monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.serve.schema import ServeDeploySchema

    from mail.errors import UserError
    from pipelines.serving.application import build

    (service,) = of_kind(rendered, "RayService")
    assert service["spec"]["rayClusterConfig"] == of_kind(rendered, "RayCluster")[0]["spec"]
    config = ServeDeploySchema.model_validate(yaml.safe_load(service["spec"]["serveConfigV2"]))
    (application,) = config.applications
    assert application.import_path == f"{build.__module__}:{build.__name__}"
    monkeypatch.delenv("MAIL_SERVE_TOKEN", raising=False)
    with pytest.raises(UserError, match="MAIL_SERVE_TOKEN is no token"):
        build(application.args)
    monkeypatch.setenv("MAIL_SERVE_TOKEN", "0123456789abcdef")
    assert build(application.args)
    for wrong in ({"replica": 2}, {"label_studio_key": "a key in a manifest"}):
        with pytest.raises(UserError, match=f"there is no '{next(iter(wrong))}'"):
            build({**application.args, **wrong})
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", "a user's")
    monkeypatch.setattr("pipelines.serving.application.application", lambda config, shape, environment: config)
    assert build(application.args).label_studio_key == "a user's"


def test_the_operator_refuses_what_its_schemas_allow(rendered: list[Json]) -> None:
    cluster = of_kind(rendered, "RayCluster")[0]
    job = of_kind(rendered, "RayJob")[0]
    service = cluster | {"kind": "RayService", "spec": {"rayClusterConfig": cluster["spec"]}}
    assert refusals(service) == []
    selecting = {"clusterSelector": {"ray.io/cluster": "mail-ris"}, "rayClusterSpec": None}
    shared = {**selecting, "backoffLimit": 0, "shutdownAfterJobFinishes": False, "ttlSecondsAfterFinished": 0}
    incremental = {"upgradeStrategy": {"type": "NewClusterWithIncrementalUpgrade"}}
    with_keys = {"mode": "token", "enableK8sTokenAuth": True}
    older_first = [
        {"policy": "DeleteSelf", "condition": {"jobStatus": "FAILED", "ttlSeconds": 1}},
        {"policy": "DeleteCluster", "condition": {"jobStatus": "FAILED", "ttlSeconds": 2}},
    ]
    assert refusals(changed(job, shared)) == []
    for resource, changes, said in [
        (job, selecting, "backoffLimit is incompatible with clusterSelector"),
        (job, {"rayClusterSpec": None}, "one of rayClusterSpec and clusterSelector"),
        (job, {"shutdownAfterJobFinishes": False}, "needs shutdownAfterJobFinishes"),
        (job, {"submissionMode": "InteractiveMode"}, "InteractiveMode"),
        (job, {"submissionMode": "SidecarMode"}, "SidecarMode has no submitter"),
        (job, {"activeDeadlineSeconds": 0}, "not positive"),
        (job, {"rayClusterSpec.authOptions": with_keys}, "not for RayJobs"),
        (job, {"deletionStrategy": {"onSuccess": {"policy": "DeleteNone"}}}, "excludes DeleteNone"),
        (job, {"deletionStrategy": {"deletionRules": older_first}}, "must not fall"),
        (job, {"rayClusterSpec.rayVersion": "2.51.0"}, "2.52"),
        (cluster, {"rayVersion": None}, "2.52"),
        (cluster, {"enableInTreeAutoscaling": True, "headGroupSpec.template.spec.restartPolicy": "Always"}, "Never"),
        (cluster, {"headGroupSpec.resources": {"cpu": "2"}}, "in rayStartParams and in resources"),
        (cluster, {"headGroupSpec.rayStartParams.labels": "a=b"}, "labels in rayStartParams"),
        (cluster, {"workerGroupSpecs.0.minReplicas": 9}, "minReplicas above maxReplicas"),
        (cluster, {"workerGroupSpecs.0.groupName": "gpu"}, "one name"),
        (cluster, {"workerGroupSpecs.0.suspend": True}, "suspended"),
        (cluster, {"autoscalerOptions.version": "v1", "workerGroupSpecs.0.idleTimeoutSeconds": 9}, "autoscaler v2"),
        (cluster, {"gcsFaultToleranceOptions": {"backend": "rocksdb"}}, "feature gate"),
        (cluster, {"networkPolicy": {}}, "networkPolicy needs a feature gate"),
        (service, incremental, "needs intervalSeconds and gatewayClassName"),
        (service, {"rayClusterConfig.headGroupSpec.headService": {"metadata": {"name": "x"}}}, "has a name"),
        (service, {"upgradeStrategy": {"type": "Recreate"}}, "no upgradeStrategy Recreate"),
    ]:
        assert any(said in reason for reason in refusals(changed(resource, changes))), (changes, said)
    for kind, name in (("RayJob", "x" * 48), ("RayCluster", "x" * 54), ("RayService", "1st")):
        original = {"RayJob": job, "RayCluster": cluster, "RayService": service}[kind]
        assert refusals(original | {"metadata": {"name": name}})[0].startswith("the name"), name


def changed(resource: Json, changes: Json) -> Json:
    """A copy of the resource with fields of its spec set, or taken out where they are None."""
    result = copy.deepcopy(resource)
    for path, value in changes.items():
        inner, *names = result["spec"], *path.split(".")
        for name in names[:-1]:
            inner = inner[int(name)] if isinstance(inner, list) else inner[name]
        if value is None:
            inner.pop(names[-1], None)
        else:
            inner[names[-1]] = value
    return result


def test_the_command_of_a_job_is_understood(rendered: list[Json]) -> None:
    for job in of_kind(rendered, "RayJob"):
        # the submitter's shell fills the settings in
        words = shlex.split(re.sub(r"\$([A-Z_]+)", lambda name: SETTINGS[name[1]], job["spec"]["entrypoint"]))
        assert words[:3] == ["python", "-m", "pipelines"]
        assert isinstance(parse(words[3:]), Stage)
        assert (
            words[3] == job["metadata"]["labels"]["mail-ris/part"] == job["metadata"]["name"].removeprefix("mail-ris-")
        )
        submitter = job["spec"]["submitterPodTemplate"]["spec"]["containers"][0]
        assert {"configMapRef": {"name": "mail-ris-settings"}} in submitter["envFrom"]


def test_nothing_is_left_to_be_filled_in(rendered: list[Json]) -> None:
    text = yaml.safe_dump_all(rendered)
    assert not re.findall("FILL_IN|REGISTRY/|:TAG|STORAGE_CLASS$", text)
    images = {image for image in re.findall(r"image: (\S+)", text) if not image.startswith("postgres:")}
    assert images == {f"{SETTINGS['REGISTRY']}/mail-ris-{name}:{SETTINGS['TAG']}" for name in ("cpu", "gpu", "mlflow")}
    claim = next(r for r in of_kind(rendered, "PersistentVolumeClaim"))
    assert claim["spec"]["storageClassName"] == SETTINGS["STORAGE_CLASS"]
    assert of_kind(rendered, "ConfigMap")[0]["data"] == SETTINGS


def test_settings_that_are_missing_are_named() -> None:
    example = EXAMPLE.read_text()
    filled = "".join(f"{k}={v}\n" for k, v in SETTINGS.items())
    assert unfilled(example, example) == list(SETTINGS)
    assert unfilled(example, filled) == []
    assert unfilled(example, filled.replace("BUCKET=team-bucket", "BUCKET=")) == ["BUCKET"]
    assert unfilled(example, filled.replace("TAG=abc123", "TAG='a b'")) == ["TAG"]


def pod_specs(value: Any) -> list[Json]:
    """The specs of all pods that a resource describes."""
    if isinstance(value, list):
        return [spec for each in value for spec in pod_specs(each)]
    if not isinstance(value, dict):
        return []
    own = [value["spec"]] if "containers" in (value.get("spec") or {}) else []
    return own + [spec for each in value.values() for spec in pod_specs(each)]


def test_pods_name_only_what_is_there(rendered: list[Json]) -> None:
    """Volumes, settings, service accounts; a secret is optional everywhere, or the guide has it made."""
    made = set(re.findall(r"kubectl create secret generic (\S+)", (ROOT / "cluster/README.md").read_text()))
    names = {(r["kind"], r["metadata"]["name"]) for r in rendered}
    optional: dict[str, set[bool]] = {}
    for spec in pod_specs(rendered):
        volumes = {v["name"]: v for v in spec.get("volumes", [])}
        for volume in volumes.values():
            if claim := volume.get("persistentVolumeClaim"):
                assert ("PersistentVolumeClaim", claim["claimName"]) in names
        if account := spec.get("serviceAccountName"):
            assert ("ServiceAccount", account) in names
        for container in spec["containers"]:
            if "postgres:" not in container["image"]:
                assert {m["name"] for m in container.get("volumeMounts", [])} <= set(volumes)
            references = [e["valueFrom"] for e in container.get("env", []) if "valueFrom" in e]
            for reference in [*container.get("envFrom", []), *references]:
                if settings := reference.get("configMapRef"):
                    assert ("ConfigMap", settings["name"]) in names
                if secret := reference.get("secretRef") or reference.get("secretKeyRef"):
                    optional.setdefault(secret["name"], set()).add(secret.get("optional", False))
    assert optional == {"mail-ris-object-store": {True}, "mail-ris-serve": {True}, "mlflow-postgres": {False}}
    assert set(optional) == made


def test_ray_and_mlflow_are_told_the_region_they_sign_for(rendered: list[Json]) -> None:
    talking = [s for s in pod_specs(rendered) if any("secretRef" in f for f in s["containers"][0].get("envFrom", []))]
    assert len(talking) == 4 * (2 + len(JOBS)) + 1  # head and three groups of every cluster, MLflow
    for spec in talking:
        assert {"configMapRef": {"name": "mail-ris-settings"}} in spec["containers"][0]["envFrom"]
    assert {"AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL_S3"} <= set(SETTINGS)


def test_a_path_below_data_is_what_the_guide_copies_there(rendered: list[Json]) -> None:
    guide = (ROOT / "cluster/README.md").read_text()
    for job in of_kind(rendered, "RayJob"):
        for path in re.findall(r" /data/(\S+)", job["spec"]["entrypoint"]):
            assert f"data/{path.split('/')[0]}" in guide, path


def test_every_part_is_applied_by_the_guide(rendered: list[Json]) -> None:
    parts = {r["metadata"]["labels"]["mail-ris/part"] for r in rendered}
    assert parts == {"platform", "cluster", "copy", "serve", *JOBS}
    guide = (ROOT / "cluster/README.md").read_text()
    for part in sorted(parts):
        assert f"mail-ris/part={part}" in guide, part
