"""Loss terms: every one a mean over expressions, computed in fp32, finite on empty masks and empty proposals."""

import torch
from torch import Tensor
from torch.nn import functional as F

BELONGS = 0.5  # share of its pixels from which a proposal belongs to a target


def mask_bce(logits: Tensor, target: Tensor, inside: Tensor) -> Tensor:
    """Binary cross-entropy per expression: mean over the cells that hold image.

    Args:
        logits: (N, R, R); target: (N, R, R) coverage in [0, 1]; inside: (N, R, R) 1 where there is image.

    Returns:
        (N,).
    """
    loss = F.binary_cross_entropy_with_logits(logits, target, reduction="none") * inside
    return loss.flatten(1).sum(1) / inside.flatten(1).sum(1).clamp_min(1)


def mask_dice(logits: Tensor, target: Tensor, inside: Tensor) -> Tensor:
    """Soft Dice loss (Milletari et al. 2016, squares below) per expression (N,); an empty target wants no pixel."""
    probability = logits.sigmoid() * inside
    overlap = (probability * target).flatten(1).sum(1)
    total = (probability**2).flatten(1).sum(1) + (target**2).flatten(1).sum(1)
    return 1 - (2 * overlap + 1) / (total + 1)


def selection(logits: Tensor, ious: Tensor, min_iou: float) -> Tensor:
    """Cross-entropy per expression towards the proposals that fit, or the null slot if none does.

    The wanted distribution is in proportion to how far a proposal's IoU lies above half of the best one's, so that two
    good proposals of one object share instead of competing.

    Args:
        logits: (N, 1 + K) with the null slot first; ious: (N, K), 0 in empty slots.

    Returns:
        (N,).
    """
    if ious.shape[1] == 0:
        best = ious.new_zeros(len(ious))
        want = ious
    else:
        best = ious.max(1).values
        want = ((ious - 0.5 * best[:, None]).clamp_min(0)) ** 2 * (best > 0)[:, None]
        want = want / want.sum(1, keepdim=True).clamp_min(1e-9)
    found = (best >= min_iou).to(logits.dtype)[:, None]
    wanted = torch.cat([1 - found, want.to(logits.dtype) * found], 1)
    # an empty slot has the lowest logit there is and wants nothing: 0 * -large stays finite, 0 * -inf would not
    return -(wanted * logits.log_softmax(1).clamp_min(-1e4)).sum(1)


def membership(logits: Tensor, inside: Tensor, valid: Tensor) -> Tensor:
    """Per expression (N,): binary cross-entropy of "this proposal belongs to what is meant", summed over proposals, and
    the cross-entropy of one choice towards those that do, equally, or the null slot if none does.

    A proposal belongs if most of its pixels do: of a group each member, of a thing also a part. Both want the same
    order: what belongs, then the null slot, which is the threshold, then the rest.

    Args:
        logits: (N, 1 + K) with the null slot first; inside: (N, K) share of each proposal's pixels that the target has;
            valid: (N, K), False in empty slots.
    """
    belongs = ((inside > BELONGS) & valid).to(logits.dtype)
    apart = (logits[:, 1:] - logits[:, :1]).masked_fill(~valid, 0)
    each = F.binary_cross_entropy_with_logits(apart, belongs, reduction="none")
    count = belongs.sum(1, keepdim=True)
    wanted = torch.cat([(count == 0).to(logits.dtype), belongs / count.clamp_min(1)], 1)
    together = -(wanted * logits.log_softmax(1).clamp_min(-1e4)).sum(1)
    return (each * valid).sum(1) + together


def no_target(logits: Tensor, truth: Tensor) -> Tensor:
    """Binary cross-entropy per expression (N,) of "the expression names nothing in this image"."""
    return F.binary_cross_entropy_with_logits(logits, truth.to(logits.dtype), reduction="none")
