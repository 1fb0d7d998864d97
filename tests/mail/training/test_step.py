"""A step is exact: however it is accumulated, wherever it is resumed."""

import math
from pathlib import Path

import pytest
import torch
from pyarrow import fs

from mail.errors import UserError
from mail.model import MailForReferringSegmentation
from mail.training.checkpoint import MANIFEST, Saved, find_latest, load_optimizer, put_checkpoint, save_checkpoint
from mail.training.input import batches
from mail.training.optimizer import make_optimizer, split_parameters
from mail.training.settings import TrainingSettings
from mail.training.step import by_step, records, train_step
from tests.boxes import micro_config

SETTINGS = TrainingSettings(seed=3, steps=6, global_batch_size=8, learning_rate=1e-3, warmup_fraction=0.3)


def new_model() -> MailForReferringSegmentation:
    torch.manual_seed(0)
    return MailForReferringSegmentation(micro_config()).train()


def run(model, optimizer, source, plan, start, stop, micro=None) -> list[dict]:
    steps = by_step(batches(source, plan, start, stop, micro=micro))
    results = [train_step(model, optimizer, parts, SETTINGS) for parts in steps]
    return records(start, results, SETTINGS, world=1)


def save(place: Path, step: int, model, source, optimizer) -> None:
    written = place.with_name(f"{place.name}-written")
    save_checkpoint(written, step, model, source.processor, optimizer, {}, {})
    put_checkpoint(written, fs.LocalFileSystem(), str(place))


def test_a_resumed_run_equals_one_that_never_stopped(plan, source, tmp_path):
    model = new_model()
    whole = run(model, make_optimizer(model, SETTINGS), source, plan, 0, 6)

    first = new_model()
    optimizer = make_optimizer(first, SETTINGS)
    begun = run(first, optimizer, source, plan, 0, 3)
    save(tmp_path / "step-3", 3, first, source, optimizer)

    second = MailForReferringSegmentation.from_pretrained(tmp_path / "step-3").train()
    optimizer = make_optimizer(second, SETTINGS)
    assert load_optimizer(tmp_path / "step-3", second, optimizer) == 3
    ended = run(second, optimizer, source, plan, 3, 6)

    assert begun + ended == whole
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), second.parameters(), strict=True))


def test_accumulated_parts_give_the_step_of_the_whole_batch(plan, source):
    whole, parts = new_model(), new_model()
    one = run(whole, make_optimizer(whole, SETTINGS), source, plan, 0, 4)
    other = run(parts, make_optimizer(parts, SETTINGS), source, plan, 0, 4, micro=3)
    for a, b in zip(one, other, strict=True):
        assert a == pytest.approx(b, abs=1e-5, rel=1e-4)


def test_the_loss_falls(plan, source):
    model = new_model()
    settings = TrainingSettings(steps=40, global_batch_size=8, learning_rate=3e-3)
    optimizer = make_optimizer(model, settings)
    results = [train_step(model, optimizer, p, settings) for p in by_step(batches(source, plan, 0, 40))]
    losses = [r["loss"] for r in records(0, results, settings, world=1)]
    assert sum(losses[-8:]) < 0.9 * sum(losses[:8])


def test_a_loss_that_is_not_finite_stops_the_run():
    with pytest.raises(UserError, match="not finite at step 5"):
        records(3, [torch.ones(6), torch.full((6,), math.nan)], SETTINGS, world=1)


def test_only_matrices_decay():
    decay, rest = split_parameters(new_model())
    assert {"decoder.pixels.query.weight", "patch.projection.weight"} <= set(decay)
    assert all(p.ndim >= 2 for p in decay.values())
    assert any(n.endswith("word_embeddings.weight") for n in rest)
    assert "patch.cls_token" in rest


def test_the_learning_rate_warms_up_and_decays():
    rates = [TrainingSettings(steps=100, learning_rate=1.0).learning_rate_at(s) for s in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[9] == 1.0
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[100] == pytest.approx(0.01)


def test_a_checkpoint_cut_short_is_passed_over(plan, source, tmp_path):
    model = new_model()
    optimizer = make_optimizer(model, SETTINGS)
    run(model, optimizer, source, plan, 0, 1)
    for step in (1, 2, 3):
        save(tmp_path / f"step-{step}", step, model, source, optimizer)
    weights = tmp_path / "step-3" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    (tmp_path / "step-2" / MANIFEST).write_text("{")
    assert find_latest(str(tmp_path)) == Saved(str(tmp_path / "step-1"), 1)
    with pytest.raises(UserError, match="no complete checkpoint"):
        load_optimizer(tmp_path / "step-3", model, optimizer)


def test_no_checkpoint_is_no_error(tmp_path):
    assert find_latest(str(tmp_path / "nothing")) is None


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"learning_rate": 0}, {"seed": -1}, {"proposal_dropout": 2}])
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        TrainingSettings(**wrong)
