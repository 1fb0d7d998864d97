"""A recorded pass computes what the network computes: of each shape, in several parts, of several workers."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from benchmarks.train_step import make_batch
from mail.model import MailForReferringSegmentation, find_preset
from mail.training.compiling import padded
from mail.training.optimizer import make_optimizer
from mail.training.recording import Recorder, beside
from mail.training.settings import TrainingSettings
from mail.training.step import TrainingBatch, train_step

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")
SEVERAL = [(6, 8), (6, 16), (6, 8)]  # expressions and words of each part


def steps(recorded: bool, batches: list[list[TrainingBatch]], rank: int = 0, world: int = 0) -> torch.Tensor:
    """Losses and gradient norms, step by step, of a network of a fixed seed that takes these steps three times.

    Args:
        world: of the process group whose gradients are averaged; 0 where there is none.
    """
    torch.manual_seed(0)
    config, settings = find_preset("tiny").config(), TrainingSettings(global_batch_size=12, steps=20)
    device = torch.device("cuda")
    model = MailForReferringSegmentation(config).to(device).train()
    optimizer, recorder = make_optimizer(model, settings), Recorder(model, bf16=False) if recorded else None
    found, wrapped = [], model
    if world:
        wrapped = DistributedDataParallel(model, device_ids=[0], gradient_as_bucket_view=True)
    for parts in batches * 3:
        for part in parts if recorder is not None else ():
            recorder.record(part)
        found.append(train_step(wrapped, optimizer, parts, settings, rank=rank, world=world or 1, device=device))
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


def worker(rank: int, world: int, backend: str, folder: Path) -> None:
    distributed.init_process_group(backend, f"file://{folder}/store", rank=rank, world_size=world)
    made = [[part(6, words, seed + rank, 6 * world)] for seed, words in ((10, 8), (20, 16))]
    made.append([part(*shape, seed + rank, 18 * world) for seed, shape in zip((30, 40, 50), SEVERAL, strict=True)])
    with beside(torch.device("cuda")):
        torch.save([steps(recorded, made, rank, world) for recorded in (True, False)], folder / f"{rank}.pt")
    distributed.destroy_process_group()


# two workers on one GPU: NCCL wants one for each
@pytest.mark.parametrize(("backend", "world"), [("gloo", 2), ("nccl", 1)])
def test_workers_take_the_steps_of_the_network_as_it_is_written(backend, world, tmp_path):
    torch.multiprocessing.spawn(worker, (world, backend, tmp_path), world)
    norms = []
    for rank in range(world):
        recorded, written = torch.load(tmp_path / f"{rank}.pt")
        torch.testing.assert_close(recorded, written, rtol=1e-3, atol=1e-4)
        norms.append(recorded[:, -1])
    assert all(torch.equal(norm, norms[0]) for norm in norms)  # of the mean gradient
