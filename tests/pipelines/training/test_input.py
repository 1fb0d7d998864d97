"""What Ray carries is what was built, in order; the number of workers changes nothing."""

import json
import os
import shutil
import signal
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
import ray
import torch

from mail.data.epoch_plan import Batch, EpochPlan
from mail.data.expression_index import ExpressionIndex
from mail.data.rehearsal import RehearsedPlan
from mail.errors import UserError
from mail.model import MailProcessor, tokenizer_from_texts
from mail.training.input import TrainingInput, batches, texts, training_input, unusable_images
from mail.training.step import TrainingBatch
from pipelines.registry.client import connect
from pipelines.stages.train import Train
from pipelines.training.config import ModelOverrides
from pipelines.training.input import TASK_BYTES, Transport, ahead, ray_batches
from tests.boxes import Boxes, make_boxes, micro_config
from tests.pipelines.stages.test_train import MICRO, weights


@pytest.fixture(scope="module")
def boxes(tmp_path_factory) -> Boxes:
    return make_boxes(tmp_path_factory.mktemp("boxes"))


@pytest.fixture(scope="module")
def made(boxes) -> tuple[TrainingInput, EpochPlan]:
    index = ExpressionIndex.read(boxes.store, "train", unusable_images(boxes.masks))
    processor = MailProcessor.for_config(tokenizer_from_texts(texts(boxes.store, "train"), 20), micro_config())
    source = training_input(boxes.store, index, boxes.masks, processor, seed=1, proposal_dropout=0.2)
    return source, EpochPlan(index, 8, seed=1, rule="all")


def assert_same(one, two) -> None:
    assert (one.plan.step, one.plan.part, one.plan.rows.tolist()) == (
        two.plan.step,
        two.plan.part,
        two.plan.rows.tolist(),
    )
    assert one.tensors.keys() == two.tensors.keys()
    for key, tensor in one.tensors.items():
        assert tensor.dtype == two.tensors[key].dtype
        assert torch.equal(tensor, two.tensors[key])


def test_an_error_in_the_thread_comes_out_where_the_batch_would():
    def broken():
        yield "first"
        raise ValueError("an image is gone")

    stream = ahead(broken(), 2)
    assert next(stream) == "first"
    with pytest.raises(ValueError, match="an image is gone"):
        next(stream)


def test_closing_the_stream_ends_its_thread():
    def endless():
        while True:
            yield 0

    before = threading.active_count()
    stream = ahead(endless(), 2)
    next(stream)
    stream.close()
    assert threading.active_count() == before


@pytest.mark.parametrize("step_bytes", [1000, 2**20, TASK_BYTES, 2**30])
@pytest.mark.parametrize("cpus", [0.1, 1, 2.5, 16, 200])
def test_what_is_in_flight_fits_into_the_object_store(cpus, step_bytes):
    transport = Transport(cpus=cpus)
    tasks, steps = transport.in_flight(step_bytes)
    least = (tasks, steps) == (1, 1)
    assert least or (tasks + 1) * steps * step_bytes <= transport.store_bytes
    assert tasks <= max(1, cpus) + 1
    assert tasks == int(max(1, cpus)) + 1 or step_bytes * cpus > 2**25


@pytest.mark.cluster
@pytest.mark.parametrize("share", [None, 0.25])
def test_ray_gives_the_batches_of_the_plan_in_order(ray_cluster, made, share):
    if share is not None:  # the same data stand for those that are rehearsed
        old = EpochPlan(made[1].index, 8, seed=2, rule="all")
        made = made[0], RehearsedPlan(made[1], old, share, (0, 0))
    shared = ray.put(made)
    transport = Transport(steps_per_task=2, cpus=1)
    carried = ray_batches(shared, 3, 14, rank=1, world=2, micro=3, transport=transport)
    built = list(batches(*made, 3, 14, rank=1, world=2, micro=3))
    for one, two in zip(carried, built, strict=True):
        assert_same(one, two)
        one.tensors["pixel_values"].zero_()  # what came from the object store may be written to
        assert not one.tensors["pixel_values"].any()


@pytest.mark.cluster
def test_less_than_a_cpu_is_enough_for_the_input(ray_cluster, made):
    trainers = ray.util.placement_group([{"CPU": 1.1}])  # of the cluster's 2, as an elastic trainer takes them
    ray.get(trainers.ready(), timeout=60)
    try:
        stream = ray_batches(ray.put(made), 0, 6, transport=Transport(steps_per_task=2, cpus=0.9))
        assert [batch.plan.step for batch in stream] == list(range(6))
    finally:
        ray.util.remove_placement_group(trainers)


@pytest.mark.cluster
def test_the_first_batch_of_a_long_run_does_not_wait_for_the_list_of_all(ray_cluster, made):
    begun = time.monotonic()
    stream = ray_batches(ray.put(made), 0, 100_000, transport=Transport(steps_per_task=8, cpus=1))
    assert next(stream).plan.step == 0
    stream.close()
    assert time.monotonic() - begun < 40  # a second task for each of the first would take minutes


@dataclass
class Watched(TrainingInput):
    """Leaves a file in `folder` for every call of `build`, which goes as `fate` says."""

    folder: str = ""
    fate: Literal["well", "killed once", "wrong", "slow"] = "well"

    def build(self, wanted: Sequence[Batch]) -> Iterator[TrainingBatch]:
        first = not any(Path(self.folder).iterdir())
        Path(self.folder, uuid.uuid4().hex).touch()
        if self.fate == "killed once" and first:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.fate == "wrong":
            raise UserError("image 7 is gone: prepare the store again")
        if self.fate == "slow" and wanted[0].step:
            time.sleep(300)
        return super().build(wanted)


@pytest.fixture
def watched(ray_cluster, made, tmp_path):
    """Makes the stream of a long training by its input's fate, a task every two steps, and counts what was built."""
    source, plan = made
    streams = []

    def make(fate: str):
        shared = ray.put((Watched(**source.__getstate__(), folder=str(tmp_path), fate=fate), plan))
        streams.append(ray_batches(shared, 0, 10_000, transport=Transport(steps_per_task=2, prefetch=4)))
        return streams[-1], lambda: len(list(tmp_path.iterdir()))

    yield make
    for stream in streams:
        stream.close()


def idle(count, least: int = 0) -> int:
    """The count once it has been the same for three seconds; where it comes to so many, which a busy machine takes."""
    deadline = time.monotonic() + 60
    while count() < least and time.monotonic() < deadline:
        time.sleep(0.1)
    found, since = count(), time.monotonic()
    while time.monotonic() - since < 3:
        time.sleep(0.1)
        if count() != found:
            found, since = count(), time.monotonic()
    return found


@pytest.mark.cluster
def test_a_trainer_that_takes_nothing_is_not_overrun(watched):
    stream, built = watched("well")
    next(stream)
    assert idle(built, 5) == 3 + 2  # the tasks of the batch that was taken and the four that wait, and two ahead
    for _ in range(4):
        next(stream)
    assert idle(built, 7) == 5 + 2


@pytest.mark.cluster
def test_a_task_whose_process_is_killed_is_built_again(watched, made):
    stream, built = watched("killed once")
    for one, two in zip(stream, batches(*made, 0, 6), strict=False):
        assert_same(one, two)
        if one.plan.step == 5:
            break
    assert built() > 1


@pytest.mark.cluster
def test_a_wrong_input_is_its_own_error_and_not_tried_again(watched):
    stream, built = watched("wrong")
    with pytest.raises(UserError, match=r"^image 7 is gone: prepare the store again$") as caught:
        next(stream)
    assert type(caught.value) is UserError
    assert idle(built) <= 2  # each of the two tasks in flight once


@pytest.mark.cluster
def test_closing_the_stream_ends_the_tasks_that_it_waits_for(watched):
    stream, built = watched("slow")
    next(stream)
    while built() < 3:
        time.sleep(0.1)
    begun = time.monotonic()
    stream.close()
    assert time.monotonic() - begun < 20
    while ray.available_resources().get("CPU") != 2:
        assert time.monotonic() - begun < 30
        time.sleep(0.2)


@pytest.mark.soak
def test_a_training_that_cannot_go_on_ends_at_once(ray_cluster, boxes, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    values = {"preset": "tiny", "data": boxes.store_uri, "masks": boxes.masks_uri, "threads": 1, "register": False}
    with pytest.raises(UserError, match=r"not finite at step .* lower --learning-rate"):
        Train(name="wild", workers=1, steps=30, learning_rate=1e30, model=ModelOverrides(**MICRO), **values).run()
    assert "was lost" not in capsys.readouterr().err


@pytest.mark.cluster
def test_two_workers_compute_what_one_does_and_one_goes_on_from_them(
    ray_cluster, boxes, tmp_path, monkeypatch, put_mlflow
):
    monkeypatch.chdir(tmp_path)
    put_mlflow(tmp_path / "mlflow.db")
    monkeypatch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "true")
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.2")

    def run(name: str, workers: int, **changes: object) -> tuple[dict, list[float]]:
        values = {"preset": "tiny", "data": boxes.store_uri, "masks": boxes.masks_uri, "threads": 1, "register": False}
        values |= {"steps": 6, "global_batch_size": 8, "checkpoint_every": 3, "validation_expressions": 5}
        result = Train(name=name, workers=workers, model=ModelOverrides(**MICRO), **(values | changes)).run()
        history = connect().get_metric_history(result["run_id"], "train/loss")
        return result, [m.value for m in sorted(history, key=lambda m: m.step)]

    here, losses = run("here", 0)
    two, of_two = run("two", 2)
    assert of_two == pytest.approx(losses, abs=1e-5)
    assert two["validation"] == pytest.approx(here["validation"], abs=1e-3)
    measured = connect().get_run(two["run_id"]).data.metrics
    machines = {key.split("/")[1] for key in measured if key.startswith("system/")}
    assert machines == {ray.util.get_node_ip_address()}  # one of its two workers measures it

    folder = Path(tmp_path, "runs/two")  # as if it had been killed after the first checkpoint
    shutil.rmtree(folder / "checkpoints/start-001/step-0000006")
    state = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(state | {"finished": False}))
    one, of_both = run("two", 0, resume=True)
    assert of_both == pytest.approx(losses, abs=1e-5)
    for name, values in weights(one["model"]).items():
        assert torch.allclose(torch.tensor(values), torch.tensor(weights(here["model"])[name]), atol=1e-4), name
