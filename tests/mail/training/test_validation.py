"""From which probability on "names nothing" is believed is chosen on the validation split, and saved with the model."""

import numpy as np
import pytest
import torch

from mail.data.expression_index import ExpressionIndex
from mail.data.images import decode_image
from mail.data.scenes import SceneConfig
from mail.data.store import DataStore
from mail.inference import Predictor
from mail.model import MailForReferringSegmentation, MailProcessor, tokenizer_from_texts
from mail.training.checkpoint import save_model
from mail.training.input import TrainingInput, texts, training_input
from mail.training.validation import ENOUGH_WITHOUT_TARGET, Validation, validate
from pipelines.stages.prepare import PrepareSynthetic
from tests.boxes import micro_config

CPU = torch.device("cpu")
DOUBT = 0.32  # probability that nothing is meant, of every sentence


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> DataStore:
    out = tmp_path_factory.mktemp("scenes") / "store"
    PrepareSynthetic(out=str(out), images=60, scene=SceneConfig(targets="many")).run()
    return DataStore(out)


@pytest.fixture
def doubtful(store) -> tuple[MailForReferringSegmentation, TrainingInput, Validation]:
    """A network whose masks are worth nothing, which believes a third that nothing is meant."""
    tokenizer = tokenizer_from_texts(texts(store, "train"), 20)
    config = micro_config(vocab_size=len(tokenizer))
    torch.manual_seed(0)
    model = MailForReferringSegmentation(config)
    with torch.no_grad():
        model.decoder.no_target.weight.zero_()
        model.decoder.no_target.bias.fill_(float(np.log(DOUBT / (1 - DOUBT))))
    index = ExpressionIndex.read(store, "train")
    source = training_input(store, index, None, MailProcessor.for_config(tokenizer, config))
    return model, source, Validation.choose(index, "train", len(index))


def test_the_threshold_is_the_best_one_and_saved_with_the_model(store, doubtful, tmp_path):
    model, source, validation = doubtful
    absent = store.expressions(["train"], ["no_target"])["no_target"].to_numpy()
    assert absent.sum() >= ENOUGH_WITHOUT_TARGET
    scores = validate(model, source, validation, 0, 1, CPU)
    assert scores["no_target_threshold"] == 0.3  # of all below the probability the nearest to .5
    # nothing is drawn any more, which is right where nothing is meant
    assert (scores["mIoU"], scores["oIoU"]) == (pytest.approx(absent.mean()), 0)
    assert scores["expressions"] == len(absent)
    save_model(tmp_path / "model", model, source.processor, {})
    predictor = Predictor.from_pretrained(tmp_path / "model", device="cpu")
    assert predictor.processor.no_target_threshold == 0.3
    pixels = decode_image(next(store.images(["image"]))["image"][0].as_py())
    (answer,) = predictor.predict(pixels, "red star")
    assert not answer.mask.any()
    assert answer.no_target_probability == pytest.approx(DOUBT, abs=1e-4)
    predictor.processor.no_target_threshold = 0.35
    assert predictor.predict(pixels, "red star")[0].mask.any()


def test_few_sentences_without_a_target_choose_nothing(store, doubtful):
    model, source, validation = doubtful
    absent = store.expressions(["train"], ["no_target"])["no_target"].to_numpy()
    few = np.sort(np.concatenate([np.flatnonzero(absent)[: ENOUGH_WITHOUT_TARGET - 1], np.flatnonzero(~absent)[:60]]))
    source.processor.no_target_threshold = 0.9  # of the model to go on from
    found = validate(model, source, Validation("train", validation.rows[few], validation.images[few]), 0, 1, CPU)
    assert found["no_target_threshold"] == source.processor.no_target_threshold == 0.9
