"""A recorded pass computes what the network computes: for each shape, and in several parts of a step."""

from dataclasses import replace

import pytest
import torch

from benchmarks.train_step import make_batch
from mail.model import MailForReferringSegmentation, find_preset
from mail.training.compiling import padded
from mail.training.optimizer import make_optimizer
from mail.training.recording import Recorder
from mail.training.settings import TrainingSettings
from mail.training.step import TrainingBatch, train_step

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")
SEVERAL = [(6, 8), (6, 16), (6, 8)]  # expressions and words of each part


def steps(recorded: bool, batches: list[list[TrainingBatch]]) -> torch.Tensor:
    """Losses and gradient norms, step by step, of a network of a fixed seed that takes these steps three times."""
    torch.manual_seed(0)
    config, settings = find_preset("tiny").config(), TrainingSettings(global_batch_size=12, steps=20)
    device = torch.device("cuda")
    model = MailForReferringSegmentation(config).to(device).train()
    optimizer, recorder = make_optimizer(model, settings), Recorder(model, bf16=False) if recorded else None
    found = []
    for parts in batches * 3:
        for part in parts if recorder is not None else ():
            recorder.record(part)
        found.append(train_step(model, optimizer, parts, settings, device=device))
    if recorder is not None:
        recorder.close()
    return torch.stack(found).cpu()


def part(expressions: int, words: int, seed: int, total: int) -> TrainingBatch:
    made = padded(make_batch(find_preset("tiny").config(), expressions, words, seed))
    return TrainingBatch(replace(made.plan, total=total), made.tensors).to(torch.device("cuda"))


@pytest.mark.parametrize(
    "batches", [[[(12, 8)]], [[(12, 8)], [(12, 16)]], [SEVERAL], [[(160, 24)]]], ids=["one", "two", "parts", "large"]
)
def test_steps_are_those_of_the_network_as_it_is_written(batches):
    made = [[part(*shape, seed, sum(n for n, _ in parts)) for seed, shape in enumerate(parts)] for parts in batches]
    torch.testing.assert_close(steps(True, made), steps(False, made), rtol=1e-3, atol=1e-4)
