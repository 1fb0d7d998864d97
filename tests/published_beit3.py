"""What BEiT-3's authors publish, made by their own code with random weights: a checkpoint, and a vocabulary."""

from pathlib import Path

import sentencepiece
import torch
from torchscale.model.BEiT3 import BEiT3

from benchmarks.encoder_vs_beit3 import authors_network
from mail.model.presets import beit3 as config

SENTENCES = ["the red star on the left", "a woman in red with an umbrella", "zweite große Tasse", "second from right"]


def beit3(side: int = 96, spread: float = 0.2, **sizes: int) -> BEiT3:
    """The authors' network with random weights, built as their own code builds its published ones."""
    torch.manual_seed(0)
    model = authors_network(config(image_size=side, **sizes)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, mean=float(parameter.ndim == 1), std=spread)
    return model


def published(reference: BEiT3) -> dict[str, torch.Tensor]:
    """Its tensors as a published file has them, with a head of the pre-training."""
    tensors = {f"beit3.{name}": value for name, value in reference.state_dict().items()}
    return tensors | {"mlm_head.weight": torch.zeros(3, 4)}


def make_pieces(folder: Path) -> Path:
    """Trains a sentencepiece model of a few sentences; returns `beit3.spm`."""
    (folder / "texts.txt").write_text("\n".join(SENTENCES * 50))
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "texts.txt"),
        model_prefix=str(folder / "beit3"),
        vocab_size=60,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    return (folder / "beit3.model").rename(folder / "beit3.spm")
