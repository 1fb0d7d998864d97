"""The memory that is foretold is what autograd keeps."""

import pytest
import torch

from mail.model import MailForReferringSegmentation
from mail.training.cost import estimate, peak_flops
from mail.training.input import batches
from mail.training.optimizer import make_optimizer
from mail.training.settings import TrainingSettings
from mail.training.step import train_step
from tests.boxes import micro_config


def test_the_state_is_weights_gradients_and_moments(plan, source):
    model = MailForReferringSegmentation(micro_config()).train()
    settings = TrainingSettings(steps=2, global_batch_size=8)
    optimizer = make_optimizer(model, settings)
    train_step(model, optimizer, list(batches(source, plan, 0, 1)), settings)
    held = [t for p in model.parameters() for t in (p, p.grad, *optimizer.state[p].values()) if t is not None]
    # besides AdamW's step counters
    assert sum(4 * t.numel() for t in held if t.ndim) == pytest.approx(estimate(micro_config(), 1).state, rel=0.02)


def test_activations_are_those_of_a_real_pass(plan, source):
    config = micro_config()
    model = MailForReferringSegmentation(config).train()
    kept: dict[int, int] = {}
    alive = []
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)
        return tensor

    batch = next(batches(source, plan, 0, 1))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(**batch.tensors)
    # the estimate gives every expression an image of its own: an upper bound, and of the same order
    most = estimate(config, len(batch.plan.rows)).activations
    assert 0.25 * most < sum(kept.values()) <= 1.1 * most


def test_twice_the_expressions_take_twice_the_activations():
    one, two = estimate(micro_config(), 4), estimate(micro_config(), 8)
    assert two.activations == 2 * one.activations
    assert two.state == one.state


def test_a_processor_without_a_known_peak_has_none():
    assert peak_flops(torch.device("cpu"), bf16=False) is None
