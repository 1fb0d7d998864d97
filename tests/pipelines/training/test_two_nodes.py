"""Training as a submitted job on a cluster of several nodes that lose workers, machines and the driver.

Nodes are `ray start` processes with their own raylets, a token, a head without work; checkpoints go to an S3 server.
Minutes long: `pytest -m soak`.
"""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.torch import load as load_weights

from mail.data import files
from mail.training.checkpoint import find_latest, list_checkpoints
from pipelines.registry.client import connect
from tests.boxes import Boxes, make_boxes
from tests.pipelines.stages.test_train import MICRO
from tests.pipelines.two_nodes import Nodes, nodes, wait_until
from tests.s3 import BUCKET, s3_server

pytestmark = [pytest.mark.cluster, pytest.mark.soak, pytest.mark.timeout(1200)]

EVERY = 25


@pytest.fixture(scope="module")
def boxes(tmp_path_factory) -> Boxes:
    return make_boxes(tmp_path_factory.mktemp("boxes"))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory) -> Iterator[Nodes]:
    """A head and the store for checkpoints; each test starts its own nodes."""
    with s3_server() as endpoint:
        s3 = {"AWS_ENDPOINT_URL_S3": endpoint, "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
        with nodes(s3 | {"AWS_DEFAULT_REGION": "us-east-1"}) as cluster:
            yield cluster


class Jobs:
    """Submits `train` and looks at what it has done so far."""

    def __init__(self, cluster: Nodes, boxes: Boxes, folder: Path, repository: Path, monkeypatch: pytest.MonkeyPatch):
        self.cluster, self._boxes, self._folder, self._repository = cluster, boxes, folder, repository
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")

    def train(self, name: str, workers: str, steps: int, *more: str, every: int = EVERY):
        stage = ["train", "--preset", "tiny", "--data", self._boxes.store_uri, "--masks", self._boxes.masks_uri]
        stage += ["--name", name, "--out", f"s3://{BUCKET}/{name}", "--workers", workers, "--steps", str(steps)]
        stage += ["--checkpoint-every", str(every), "--global-batch-size", "8", "--validation-expressions", "4"]
        stage += ["--threads", "1", "--no-register", "--resume", *more]
        stage += [x for k, v in MICRO.items() for x in (f"--model.{k.replace('_', '-')}", str(v))]
        env_vars = {"MLFLOW_TRACKING_URI": f"sqlite:///{self._folder / 'mlflow.db'}", "HF_HUB_OFFLINE": "1"}
        return self.cluster.submit(*stage, env_vars=env_vars, repository=self._repository, log=self.log(name))

    def log(self, name: str) -> Path:
        return self._folder / f"{name}.log"

    def step(self, name: str) -> int:
        found = find_latest(f"s3://{BUCKET}/{name}/checkpoints")
        return found.step if found else 0

    def wait_for(self, name: str, step: int, seconds: float = 240) -> None:
        try:
            wait_until(lambda: self.step(name) >= step, seconds, f"step {step} of {name}")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.log(name).read_text()[-4000:]}") from None

    def curve(self, name: str, key: str) -> dict[int, float]:
        """A metric by step; fails if a step is there twice, or the run."""
        client = connect()
        experiment = client.get_experiment_by_name("mail-ris")
        (run,) = client.search_runs([experiment.experiment_id], f"attributes.run_name = '{name}'")
        history = client.get_metric_history(run.info.run_id, key)
        assert len({m.step for m in history}) == len(history), f"{key} has a step twice"
        return {m.step: m.value for m in history}


@pytest.fixture
def jobs(cluster, boxes, tmp_path, repository, monkeypatch) -> Jobs:
    return Jobs(cluster, boxes, tmp_path, repository, monkeypatch)


def weights(name: str) -> dict:
    filesystem, path = files.resolve(f"s3://{BUCKET}/{name}/model/model.safetensors")
    return load_weights(files.read_bytes(filesystem, path))


def test_worker_node_and_driver_are_lost_and_nothing_changes(jobs, cluster):
    steps = 500
    cluster.start("one"), cluster.start("two")
    whole = jobs.train("whole", "2", steps)
    assert whole.wait(400) == 0, jobs.log("whole").read_text()[-4000:]

    job = jobs.train("hit", "2", steps)
    jobs.wait_for("hit", EVERY)
    cluster.kill_worker("one")
    reached = jobs.step("hit")
    jobs.wait_for("hit", reached + 2 * EVERY)
    cluster.kill_node("two")
    reached = jobs.step("hit")
    cluster.start("three")
    jobs.wait_for("hit", reached + 2 * EVERY)
    cluster.kill_driver("hit")
    assert job.wait(120) != 0
    reached = jobs.step("hit")
    assert reached < steps, "the kills came too late to show anything"

    again = jobs.train("hit", "2", steps)  # the same command
    assert again.wait(400) == 0, jobs.log("hit").read_text()[-4000:]
    said = jobs.log("hit").read_text()
    assert "was lost" in said
    assert "going on from s3://" in said
    for key in ("train/loss", "train/learning_rate", "train/expressions_seen"):
        expected, found = jobs.curve("whole", key), jobs.curve("hit", key)
        assert sorted(found) == list(range(1, steps + 1))
        assert found == pytest.approx(expected, abs=1e-6), key
    for tensor, values in weights("hit").items():
        assert (values - weights("whole")[tensor]).abs().max() <= 1e-6, tensor
    assert len(list_checkpoints(f"s3://{BUCKET}/hit/checkpoints")) <= 3  # the newest two and the best
    for name in list(cluster.nodes):
        cluster.kill_node(name)


def test_training_grows_with_the_cluster_and_saves_before_a_preemption(jobs, cluster):
    # rarer checkpoints: Ray Train takes one every few seconds, and that of the preemption would have to queue for it
    steps, every = 3000, 100
    cluster.start("alone")
    job = jobs.train("elastic", "1..2", steps, "--grow-every", "10", "--keep-checkpoints", "10", every=every)
    jobs.wait_for("elastic", every)
    cluster.start("joins")
    wait_until(lambda: "2 worker(s) train from" in jobs.log("elastic").read_text(), 180, "the second worker")
    reached = jobs.step("elastic")
    jobs.wait_for("elastic", reached + every)
    cluster.drain("joins", 20)
    wait_until(lambda: is_unscheduled("elastic", every), 60, "a checkpoint outside of the schedule")
    time.sleep(20)
    cluster.kill_node("joins")
    assert job.wait(500) == 0, jobs.log("elastic").read_text()[-4000:]

    workers = jobs.curve("elastic", "speed/workers")
    assert set(workers.values()) == {1.0, 2.0}
    seen = jobs.curve("elastic", "train/expressions_seen")
    assert seen == {s: 8 * s for s in range(1, steps + 1)}
    rates = jobs.curve("elastic", "train/learning_rate")
    from mail.training.settings import TrainingSettings

    config = (
        connect()
        .search_runs([connect().get_experiment_by_name("mail-ris").experiment_id], "attributes.run_name = 'elastic'")[0]
        .data.params
    )
    settings = TrainingSettings(
        steps=steps,
        learning_rate=float(config["recipe.learning_rate"]),
        warmup_fraction=float(config["recipe.warmup_fraction"]),
    )
    assert rates == pytest.approx({s: settings.learning_rate_at(s - 1) for s in range(1, steps + 1)})
    for name in list(cluster.nodes):
        cluster.kill_node(name)


def is_unscheduled(name: str, every: int) -> bool:
    return any(c.step % every for c in list_checkpoints(f"s3://{BUCKET}/{name}/checkpoints"))
