"""Predicting a whole split: fixed batches, every expression once, bad images recorded."""

from pathlib import Path

import pytest
import torch

from mail import lineage
from mail.data.store import DataStore
from mail.errors import UserError
from mail.evaluation import ImageAnswer, SplitInput, SplitPlan, answers, check_masks, model_files
from mail.inference import Predictor
from mail.inventory import DamagedError, write_inventory
from mail.model.folder import load_model
from tests.boxes import Boxes, make_boxes
from tests.mail.test_inference import make_model
from tests.registry import make_proposer


@pytest.fixture(scope="module")
def boxes(tmp_path_factory: pytest.TempPathFactory) -> Boxes:
    return make_boxes(tmp_path_factory.mktemp("boxes"), images=16, broken=2)


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    return Predictor.from_pretrained(make_model(tmp_path_factory.mktemp("model")), device="cpu")


def test_a_worker_loads_what_it_is_sent_of_an_exported_model(tmp_path: Path):
    folder, there = make_model(tmp_path / "model"), tmp_path / "there"
    make_proposer(folder / "proposer")
    write_inventory(folder)
    there.mkdir()
    for name, data in model_files(folder).items():
        (there / name).write_bytes(data)
    own, sent = (load_model(each)[0].state_dict() for each in (folder, there))
    for name, weights in own.items():
        torch.testing.assert_close(sent[name], weights, rtol=0, atol=0)
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    with pytest.raises(DamagedError, match=r"the content of model\.safetensors"):
        model_files(folder)


def test_every_expression_of_the_split_is_answered_once(boxes: Boxes, predictor: Predictor):
    plan = SplitPlan.read(boxes.store, "train", images_per_batch=5)
    found = list(answers(predictor, SplitInput.of(boxes.store, plan, boxes.masks), range(len(plan)), 0.5, 32))
    ids = [e for a in found for e in a.predictions]
    assert sorted(ids) == sorted(boxes.store.expressions(["train"], ["expr_id"])["expr_id"].to_pylist())
    assert len(plan) == 3  # 12 images


def test_an_image_is_read_decoded_and_embedded_once_for_all_its_sentences(
    boxes: Boxes, predictor: Predictor, monkeypatch: pytest.MonkeyPatch
):
    from mail import evaluation

    decoded, embedded, read = [], [], []
    decode, encode, take = evaluation.decode_image, predictor.model.encode_images, SplitInput.read
    monkeypatch.setattr(evaluation, "decode_image", lambda data: (decoded.append(data), decode(data))[1])
    monkeypatch.setattr(predictor.model, "encode_images", lambda **x: (embedded.append(x), encode(**x))[1])
    monkeypatch.setattr(SplitInput, "read", lambda self, number: (read.append(number), take(self, number))[1])
    plan = SplitPlan.read(boxes.store, "val", images_per_batch=2)
    found = list(answers(predictor, SplitInput.of(boxes.store, plan, boxes.masks), range(len(plan))))
    assert sum(len(a.predictions) for a in found) == 6 * len(plan.images)
    assert len(decoded) == len(plan.images)
    assert read == list(range(len(plan)))
    assert sum(len(x["pixel_values"]) for x in embedded) == len(plan.images)


def test_an_image_that_cannot_be_decoded_is_recorded_with_empty_masks(boxes: Boxes, predictor: Predictor):
    plan = SplitPlan.read(boxes.store, "train", images_per_batch=4)
    found = {a.image_id: a for a in answers(predictor, SplitInput.of(boxes.store, plan, boxes.masks), [0], 0.5, 32)}
    bad = found["boxes/0000"]
    assert bad.error is not None
    assert bad.error.startswith("decode_error: ")
    assert bad.thumbnail is None
    assert len(bad.predictions) == 6
    assert all(p.rle is None for p in bad.predictions.values())
    assert bad.masks_status == "decode_error"
    assert found["boxes/0002"].error is None
    assert found["boxes/0002"].thumbnail


def test_answers_survive_as_a_line(boxes: Boxes, predictor: Predictor):
    plan = SplitPlan.read(boxes.store, "val", images_per_batch=2)
    for answer in answers(predictor, SplitInput.of(boxes.store, plan, boxes.masks), [0], 0.5, 32):
        again = ImageAnswer.from_line(answer.to_line())
        assert again.to_line() == answer.to_line()
        assert [p.rle for p in again.predictions.values()] == [p.rle for p in answer.predictions.values()]


def test_batches_are_read_alike_in_any_order_and_process(boxes: Boxes):
    import pickle

    plan = SplitPlan.read(boxes.store, "train", images_per_batch=3)
    source = SplitInput.of(boxes.store, plan, boxes.masks)
    forwards = [source.read(n) for n in range(len(plan))]
    elsewhere = pickle.loads(pickle.dumps(source))
    assert [elsewhere.read(n) for n in reversed(range(len(plan)))] == forwards[::-1]


def test_missing_masks_and_masks_of_other_files_are_refused(boxes: Boxes, tmp_path: Path):
    other = make_boxes(tmp_path, images=40)
    plan = SplitPlan.read(other.store, "train", 8)
    with pytest.raises(UserError, match=r"no masks of 18 of 30 images by .*, first: boxes/0016"):
        check_masks(other.store, plan.images, boxes.masks)
    check_masks(other.store, plan.images, other.masks)


def test_an_unknown_split_names_those_there_are(boxes: Boxes):
    with pytest.raises(UserError, match="testA"):
        SplitPlan.read(DataStore(boxes.store_uri), "minival", 8)


def test_the_digest_of_a_model_is_of_its_weights_and_settings(tmp_path: Path):
    model = make_model(tmp_path / "model")
    first = lineage.model_digest(model)
    (model / "lineage.json").write_text("{}")
    (model / "proposer").mkdir()
    assert lineage.model_digest(model) == first
    (model / "processor_config.json").write_text((model / "processor_config.json").read_text() + " ")
    assert lineage.model_digest(model) != first
