"""`ray job submit ... -- python -m pipelines STAGE` against a real `ray start --head` with token authentication."""

import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mail.data.mask_table import MaskTable
from pipelines.__main__ import main
from pipelines.cluster_session.session import connect
from tests.pipelines.job_head import Head, running_head

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

LOOKING = """
import ray
from ray.util.state import list_nodes

@ray.remote(num_cpus=0)
class Watching:
    def nodes(self):
        return {node.node_id for node in list_nodes()}

ray.init()
assert ray.get(Watching.remote().nodes.remote()) == {node["NodeID"] for node in ray.nodes()}
"""


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    with running_head(tmp_path_factory.mktemp("head")) as started:
        yield started


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, put_mlflow: Callable[[Path], None]) -> Path:
    """A small data store and a proposer of two training steps, both made without a cluster."""
    folder = tmp_path_factory.mktemp("jobs")
    put_mlflow(folder / "mlflow.db")
    scenes, store = folder / "scenes", folder / "store"
    assert main(["prepare", "synthetic", "--out", str(store), "--root", str(scenes), "--images", "40"]) == 0
    arguments = ["--instances", str(scenes / "synthetic" / "instances.json"), "--out", str(folder / "proposer")]
    arguments += ["--images", str(scenes / "images" / "train2014"), "--exclude-store", str(store)]
    arguments += ["--steps", "2", "--workers", "0"]
    assert main(["train-proposer", *arguments]) == 0
    return folder


def test_submit_without_the_token_is_refused(head: Head, repository: Path, tmp_path: Path) -> None:
    stranger = {k: v for k, v in head.environment.items() if not k.startswith("RAY_AUTH")} | {"HOME": str(tmp_path)}
    result = Head(head.address, stranger).stage("models", "list", env_vars={}, folder=repository)
    assert result.returncode != 0
    with pytest.raises(urllib.error.HTTPError) as refusal:
        urllib.request.urlopen(f"{head.address}/api/jobs/", timeout=30)
    assert refusal.value.code in (401, 403)


def test_precompute_and_train_run_as_submitted_jobs(head: Head, data: Path, repository: Path) -> None:
    env_vars = {"MLFLOW_TRACKING_URI": f"sqlite:///{data / 'mlflow.db'}", "HF_HUB_OFFLINE": "1"}
    store, masks, run = str(data / "store"), str(data / "masks"), data / "run"

    computed = head.stage(
        *("precompute", "--data", store, "--proposer", str(data / "proposer"), "--masks", masks),
        env_vars=env_vars,
        folder=repository,
    )
    assert computed.returncode == 0, computed.stdout + computed.stderr
    assert len(MaskTable(masks).snapshot()) == 40

    trained = head.stage(
        *("train", "--preset", "tiny", "--data", store, "--masks", masks, "--name", "job", "--out", str(run)),
        *("--steps", "2", "--global-batch-size", "4", "--validation-expressions", "0", "--no-register"),
        env_vars=env_vars,
        folder=repository,
    )
    assert trained.returncode == 0, trained.stdout + trained.stderr
    assert "trained 2 steps" in trained.stdout
    assert (run / "model" / "model.safetensors").exists()


def test_a_stage_that_fails_fails_the_job_with_its_one_line(head: Head, data: Path, repository: Path) -> None:
    arguments = ["--proposer", str(data / "proposer"), "--masks", str(data / "masks")]
    result = head.stage("precompute", "--data", str(data / "nothing"), *arguments, env_vars={}, folder=repository)
    assert result.returncode != 0
    assert "is not a data store" in result.stdout
    assert "Traceback" not in result.stdout


def test_what_a_job_starts_finds_its_own_cluster_beside_another_ray(head: Head, tmp_path: Path) -> None:
    """As the actor does that frees the CPUs of a training whose controller was killed."""
    (tmp_path / "job.py").write_text(LOOKING)
    with connect(num_cpus=2):
        looked = head.submit("python", "job.py", env_vars={}, folder=tmp_path)
    assert looked.returncode == 0, looked.stdout + looked.stderr


def test_a_job_gets_the_code_and_neither_tokens_nor_data(head: Head, repository: Path, tmp_path: Path) -> None:
    for name in (".rayignore", "pyproject.toml"):
        (tmp_path / name).write_bytes((repository / name).read_bytes())
    kept = ["mail/model/tokenization.py", "pipelines/cli.py"]
    left = ["ray-token", "cluster/kuberay/settings.env", "id.pem", "aws.env", "mlflow.db", "data/refer/instances.json"]
    left += [".venv/bin/python", "build/lib/mail.py", "runs/a/model.safetensors", "mail/model/__pycache__/x.pyc"]
    for name in kept + left:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    listed = head.submit("find", "-type", "f", env_vars={}, folder=tmp_path)
    found = {line.removeprefix("./") for line in listed.stdout.splitlines() if line.startswith("./")}
    assert found == {*kept, ".rayignore", "pyproject.toml"}, listed.stdout + listed.stderr
