"""From the network's output to masks at the image's resolution."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F
from torchvision.ops import masks_to_boxes

from mail.model.decoder import belonging, selection_shares
from mail.proposals import Proposals

CHOSEN_SHARE = 0.25


@dataclass
class Segmentation:
    """Answer to one expression.

    Attributes:
        mask: bool (H, W) at the image's original resolution.
        score: confidence in [0, 1]: mean foreground probability inside the mask, 0 for an empty mask.
        no_target_probability: probability that the expression names nothing in the image.
        selection: float32 (K,) probability of each proposal, in the order in which they were given; empty without them.
        choice: whether they are shares of one choice, or each is for itself: as of `MailConfig`.
    """

    mask: np.ndarray
    score: float
    no_target_probability: float
    selection: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    choice: str = "one"


def chosen_proposals(segmentation: Segmentation, share: float = CHOSEN_SHARE) -> list[int]:
    """Indices of the proposals that the answer is made of, best first.

    Each for itself: those that the decoder adds. Of one choice: the likeliest one, which is what the decoder adds, and
    the others with at least `share` of the selection; none where it is likelier that no proposal fits.
    """
    shares = segmentation.selection
    if segmentation.choice == "many":
        added = belonging(torch.from_numpy(shares)[None])[0] if len(shares) else shares
        return [int(i) for i in np.argsort(-shares, kind="stable") if added[i]]
    likeliest = shares.max(initial=0.0)
    if likeliest <= 1 - shares.sum():
        return []
    return [int(i) for i in np.argsort(-shares, kind="stable") if shares[i] >= min(share, likeliest)]


class PostProcessing:
    """The half of the processor that reads answers."""

    mask_stride: int
    max_instances: int
    choice: str
    no_target_threshold: float

    def canvas_size(self, height: int, width: int) -> tuple[int, int]:
        """Size of an image on the canvas."""
        raise NotImplementedError

    @torch.no_grad()
    def post_process(
        self,
        outputs: Any,
        image_sizes: Sequence[tuple[int, int]],
        proposals: Sequence[Proposals | None] | None = None,
        threshold: float = 0.5,
        no_target_threshold: float | None = None,
    ) -> list[Segmentation]:
        """Masks at the original resolution.

        Args:
            outputs: of the network, for N expressions.
            image_sizes: (H, W) of the image of each of the N expressions.
            proposals: of the image of each expression, as they were given; only to put `selection` in their order.
            threshold: foreground probability from which a pixel belongs to the mask.
            no_target_threshold: probability of "names nothing" above which the mask is left empty; None: the
                processor's.
        """
        answers = []
        limit = self.no_target_threshold if no_target_threshold is None else no_target_threshold
        absent = outputs.no_target_logits.float().sigmoid().cpu().numpy()
        shares = None
        if outputs.selection_logits is not None:
            shares = selection_shares(outputs.selection_logits.float(), self.choice).cpu().numpy()
        for n, (height, width) in enumerate(image_sizes):
            probability = self.to_image(outputs.mask_logits[n], (height, width)).sigmoid()
            inside = probability >= threshold
            mask = inside.cpu().numpy()
            score = float(probability[inside].mean()) if mask.any() else 0.0
            if absent[n] > limit:
                mask = np.zeros_like(mask)
            selection = np.zeros(0, np.float32)
            found = proposals[n] if proposals is not None else None
            if shares is not None and found is not None:
                order = np.argsort(-found.scores, kind="stable")[: self.max_instances]
                selection = np.zeros(len(found), np.float32)
                selection[order] = shares[n, : len(order)]
            answers.append(Segmentation(mask, score, float(absent[n]), selection, self.choice))
        return answers

    def post_process_instance_segmentation(
        self,
        outputs: Any,
        threshold: float = 0.3,
        mask_threshold: float = 0.5,
        target_sizes: Sequence[tuple[int, int]] | None = None,
    ) -> list[dict[str, torch.Tensor]]:
        """The same as the text-prompted models of transformers (SAM 3) give it.

        Args:
            outputs: of the network, for N expressions.
            threshold: score from which an answer is kept; one that names nothing never is.
            mask_threshold: foreground probability from which a pixel belongs to the mask.
            target_sizes: (H, W) of the image of each of the N expressions.

        Returns:
            Of each expression `scores` (M,), `boxes` (M, 4) as x0, y0, x1, y1 in pixels, and `masks` bool (M, H, W);
            M is 1 or 0.

        Raises:
            ValueError: the sizes are not given: a mask on the canvas would have the image's padding in it.
        """
        if target_sizes is None:
            raise ValueError("target_sizes is missing: give (height, width) of the image of every expression")
        found = []
        for answer in self.post_process(outputs, target_sizes, threshold=mask_threshold):
            kept = bool(answer.mask.any()) and answer.score >= threshold
            masks = torch.from_numpy(answer.mask[None] if kept else answer.mask[None][:0])
            boxes = masks_to_boxes(masks) + torch.tensor([0.0, 0.0, 1.0, 1.0]) if kept else torch.zeros(0, 4)
            found.append({"scores": torch.tensor([answer.score] if kept else []), "boxes": boxes, "masks": masks})
        return found

    def to_image(self, logits: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """Mask logits (R, R) of the canvas -> (H, W) of the image, edge to edge."""
        height, width = (side // self.mask_stride for side in self.canvas_size(*size))
        cells = logits[:height, :width].float()
        return F.interpolate(cells[None, None], size=size, mode="bilinear", align_corners=False)[0, 0]
