"""Which weights an optimizer moves, and how."""

import pytest
import torch
from torch import nn

from mail.errors import UserError
from mail.training.input import batches
from mail.training.optimizer import LIKE_ADAMW, MATRIX_RATE, Muon, make_optimizer, orthogonal, tower_depths
from mail.training.settings import TrainingSettings
from mail.training.step import by_step, train_step
from tests.mail.training.test_step import new_model


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 40, 16), (2, 16, 40)])
def test_an_orthogonal_matrix_keeps_directions_and_loses_sizes(shape):
    torch.manual_seed(0)
    matrices = torch.randn(shape)
    found = orthogonal(matrices)
    left, _, right = torch.linalg.svd(matrices, full_matrices=False)
    sizes = (left.mT @ found @ right.mT).diagonal(dim1=1, dim2=2)
    assert 0.6 < sizes.min() < sizes.max() < 1.3  # five rounds come about there
    assert (found - left @ torch.diag_embed(sizes) @ right).abs().max() < 1e-4


def test_a_step_is_that_of_pytorchs_own():
    torch.manual_seed(0)
    ours, theirs = (nn.Parameter(torch.linspace(-1, 1, 96).view(8, 12)) for _ in range(2))
    settings = {"lr": 0.01, "weight_decay": 0.1}
    mine = Muon([{"params": [ours], "orthogonal": True}], **settings, fused=True)
    published = torch.optim.Muon([theirs], **settings, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    for _ in range(4):
        ours.grad = torch.randn(8, 12)
        theirs.grad = ours.grad.clone()
        mine.step()
        published.step()
    moved = (theirs - torch.linspace(-1, 1, 96).view(8, 12)).abs().max()
    assert (ours - theirs).abs().max() < 0.02 * moved  # theirs is computed in bf16


def test_matrices_are_muons_and_the_rest_adamws():
    model = new_model()
    settings = TrainingSettings(optimizer="muon", weight_decay=0.1)
    rest, decay, matrices = make_optimizer(model, settings).param_groups
    assert [g["orthogonal"] for g in (rest, decay, matrices)] == [False, False, True]
    assert (rest["weight_decay"], decay["weight_decay"], matrices["weight_decay"]) == (0, 0.1, 0.1)
    assert {p.ndim for p in matrices["params"]} == {2}
    assert {p.ndim for p in decay["params"]} == {4}
    assert sum(len(g["params"]) for g in (rest, decay, matrices)) == len(list(model.parameters()))
    assert matrices["rate"] == MATRIX_RATE
    assert model.text.word_embeddings.weight in set(rest["params"])


def test_an_update_has_the_size_of_one_of_adamws():
    torch.manual_seed(0)
    weight = nn.Parameter(torch.zeros(64, 128))
    optimizer = Muon([{"params": [weight], "orthogonal": True}], lr=0.1, weight_decay=0.0)
    weight.grad = torch.randn(64, 128)
    optimizer.step()
    assert weight.detach().square().mean().sqrt() == pytest.approx(0.1 * LIKE_ADAMW, rel=0.2)


def test_a_tower_learns_block_by_block_less():
    model = new_model()
    settings = TrainingSettings(tower_rate=0.5, layer_decay=0.8)
    rates = {id(p): g["rate"] for g in make_optimizer(model, settings).param_groups for p in g["params"]}
    rate = {name: rates[id(p)] for name, p in model.named_parameters()}
    last = len(model.encoder.blocks)
    assert rate["decoder.pixels.query.weight"] == rate["geometry.projection.weight"] == rate["token_type.weight"] == 1
    assert rate["encoder.norm.weight"] == rate[f"encoder.blocks.{last - 1}.mlp_in.weight"] == 0.5
    assert rate["encoder.blocks.0.mlp_in.bias"] == pytest.approx(0.5 * 0.8 ** (last - 1))
    for name in ("text.word_embeddings.weight", "patch.projection.weight", "patch.cls_token"):
        assert rate[name] == pytest.approx(0.5 * 0.8**last)


def test_a_frozen_tower_stays_as_it_is_until_it_learns(plan, source):
    settings = TrainingSettings(seed=3, steps=4, global_batch_size=8, frozen_fraction=0.5, weight_decay=0.5)
    model = new_model()
    optimizer = make_optimizer(model, settings)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    depths = tower_depths(model)
    for step, parts in enumerate(by_step(batches(source, plan, 0, 3))):
        train_step(model, optimizer, parts, settings)
        moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
        assert "decoder.pixels.query.weight" in moved
        assert "instance.shape.0.weight" in moved
        assert bool(moved & depths.keys()) == (step >= 2)


def test_an_unknown_optimizer_is_refused():
    with pytest.raises(UserError, match="'sgd': choose one of adamw, muon"):
        make_optimizer(new_model(), TrainingSettings(optimizer="sgd"))
