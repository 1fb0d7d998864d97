"""What Ray Data carries is what was built, in order; the number of workers changes nothing."""

import json
import shutil
import threading
import time
from pathlib import Path
from queue import Queue

import pytest
import ray
import torch

from mail.data.epoch_plan import EpochPlan, ExpressionIndex
from mail.model import MailProcessor, tokenizer_from_texts
from mail.training.input import TrainingInput, batches, texts, training_input, unusable_images
from pipelines.registry.client import connect
from pipelines.training.input import Transport, ahead, in_blocks, pack, ray_batches, unpack
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


def test_a_packed_batch_comes_out_as_it_went_in(made):
    import pyarrow as pa

    for batch in batches(*made, 0, 3, micro=5):
        head, data = pack(batch)
        assert_same(unpack(head, pa.py_buffer(data)), batch)


def test_batches_travel_together_in_blocks_of_the_size():
    packed = [(str(n), bytes([n]) * length) for n, length in enumerate((3, 3, 3, 9, 2))]
    blocks = list(in_blocks(packed, 6))
    assert [block["head"].to_pylist() for block in blocks] == [["0", "1"], ["2", "3"], ["4"]]
    assert [data for block in blocks for data in block["data"].to_pylist()] == [data for _, data in packed]


def test_an_error_in_the_thread_comes_out_where_the_batch_would():
    def broken():
        yield "first"
        raise ValueError("an image is gone")

    stream = ahead(broken, Queue(2))
    assert next(stream) == "first"
    with pytest.raises(ValueError, match="an image is gone"):
        next(stream)


def test_closing_the_stream_ends_its_thread():
    def endless():
        while True:
            yield 0

    before = threading.active_count()
    stream = ahead(endless, Queue(2))
    next(stream)
    stream.close()
    assert threading.active_count() == before


@pytest.mark.cluster
def test_ray_data_gives_the_batches_of_the_plan_in_order(ray_cluster, made):
    shared = ray.put(made)
    transport = Transport(steps_per_task=2, cpus=1)
    carried = ray_batches(shared, 3, 14, rank=1, world=2, micro=3, transport=transport)
    built = list(batches(*made, 3, 14, rank=1, world=2, micro=3))
    for one, two in zip(carried, built, strict=True):
        assert_same(one, two)


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


@pytest.mark.cluster
def test_two_workers_compute_what_one_does_and_one_goes_on_from_them(ray_cluster, boxes, tmp_path, monkeypatch):
    from pipelines.stages.train import Train
    from pipelines.training.config import ModelOverrides

    monkeypatch.chdir(tmp_path)
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
