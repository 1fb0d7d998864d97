"""AdamW as the field uses it: matrices decay, everything else (norms, biases, embeddings, gains) does not."""

from torch import Tensor, nn
from torch.optim import AdamW

from mail.training.settings import TrainingSettings


def make_optimizer(model: nn.Module, settings: TrainingSettings) -> AdamW:
    """AdamW with two groups; fused: one pass over the weights, on CPUs as well as GPUs."""
    decay, rest = split_parameters(model)
    groups = [{"params": list(decay.values()), "weight_decay": settings.weight_decay}]
    groups.append({"params": list(rest.values()), "weight_decay": 0.0})
    return AdamW(groups, lr=settings.learning_rate, betas=settings.betas, fused=True)


def split_parameters(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Trainable parameters by name: those with weight decay, and those without."""
    embeddings = {id(p) for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    decay: dict[str, Tensor] = {}
    rest: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        # position embeddings and class tokens are (1, P, d): tables, not matrices of a product
        table = id(parameter) in embeddings or name.endswith(("_embeddings", "_token"))
        (rest if parameter.ndim < 2 or table else decay)[name] = parameter
    return decay, rest
