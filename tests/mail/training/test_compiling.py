"""What is done to a batch so that few shapes are compiled changes nothing of what is learned from it."""

import pytest
import torch

from benchmarks.train_step import make_batch
from mail.model import MailForReferringSegmentation, find_preset
from mail.training import compiling
from mail.training.compiling import Compiling, padded


def test_repeated_images_change_neither_the_loss_nor_a_gradient():
    torch.manual_seed(0)
    config = find_preset("tiny").config()
    model, batch = MailForReferringSegmentation(config).train(), make_batch(config, 7, 8)  # on three images
    filled = padded(batch)
    assert {k: len(v) for k, v in filled.tensors.items() if len(v) != len(batch.tensors[k])} == dict.fromkeys(
        compiling.OF_IMAGES, 8
    )
    found = []
    for each in (batch, filled):
        loss = model(**each.tensors).loss
        found.append((loss.item(), torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)))
    assert found[1][0] == pytest.approx(found[0][0], abs=1e-6)
    torch.testing.assert_close(found[1][1], found[0][1], atol=1e-6, rtol=1e-4)


def test_beyond_the_last_shape_steps_are_taken_as_the_network_is_written(monkeypatch):
    monkeypatch.setattr(compiling, "MOST_SHAPES", 0)
    said, config = [], find_preset("tiny").config()
    with Compiling(MailForReferringSegmentation(config), said.append, required=True) as steps:
        taken = steps.take([make_batch(config, 7, 8)], lambda parts: [len(p.tensors["pixel_values"]) for p in parts])
    assert (taken, said) == ([3], [])
