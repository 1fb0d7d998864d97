import pytest

from mail.data.epoch_plan import EpochPlan
from mail.data.expression_index import ExpressionIndex
from mail.model import MailProcessor, tokenizer_from_texts
from mail.training.input import TrainingInput, texts, training_input, unusable_images
from tests.boxes import Boxes, make_boxes, micro_config


@pytest.fixture(scope="session")
def boxes(tmp_path_factory) -> Boxes:
    return make_boxes(tmp_path_factory.mktemp("boxes"))


@pytest.fixture(scope="session")
def plan(boxes) -> EpochPlan:
    index = ExpressionIndex.read(boxes.store, "train", unusable_images(boxes.masks))
    return EpochPlan(index, 8, seed=3, rule="all", expressions_per_piece=2, window_groups=2)


@pytest.fixture(scope="session")
def source(boxes, plan) -> TrainingInput:
    processor = MailProcessor.for_config(tokenizer_from_texts(texts(boxes.store, "train"), 20), micro_config())
    return training_input(boxes.store, plan.index, boxes.masks, processor, seed=3, proposal_dropout=0.2)
