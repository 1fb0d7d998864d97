"""`mail-ris import-proposer --weights WEIGHTS --out PROPOSER`: a published network becomes a proposer as it is.

WEIGHTS is a state dict of torchvision's Mask R-CNN, the word COCO_V1 (torchvision's published one, fetched where there
is a network), or a local checkpoint folder of transformers' Mask2Former. Whoever does not say which images the weights
saw gets a proposer of unknown origin, which counts as leaky.
"""

import dataclasses
from typing import Annotated, Any, Literal

from mail.data import files
from mail.errors import UserError
from mail.proposers.config import Network, SelectionConfig
from mail.proposers.folder import write_proposer
from mail.proposers.training_images import read_images
from pipelines.claiming.claim import Claim
from pipelines.options import Address, Place, Target, as_typed
from pipelines.stage import Stage
from pipelines.terminal import done, say

COCO_V1 = "COCO_V1"


@dataclasses.dataclass(kw_only=True)
class ImportProposer(Stage):
    """A published Mask R-CNN (torchvision) or Mask2Former (transformers) -> a proposer folder."""

    weights: Annotated[str, Place(words=(COCO_V1,)), as_typed()]
    """State dict of torchvision's Mask R-CNN (.pth or .safetensors), or a checkpoint folder of Mask2Former. COCO_V1 is
    torchvision's published one, fetched from PyTorch's server; without a network, give the downloaded file instead."""

    out: Target
    """Folder of the new proposer."""

    architecture: Literal["mask2former", "r50-fpn", "r50-fpn-v2"] | None = None
    """What the weights are for (default: mask2former for a folder, r50-fpn-v2 otherwise)."""

    images_seen: Address | None = None
    """File with the ids of all images that the weights saw, one a line or a JSON list (bare numbers are COCO's).
    Without it their origin is unknown, and everything made with them counts as leaky."""

    score_threshold: float = 0.05
    """Keep detections with score >= this."""

    max_instances: int = 50
    """At most so many masks an image."""

    min_size: int = 800
    """Mask R-CNN: images are resized to this shorter side. A Mask2Former's checkpoint says its own size."""

    max_size: int = 1333
    """Mask R-CNN: largest longer side after resizing."""

    def plan(self) -> dict[str, Any]:
        self._check_out()
        if self.weights != COCO_V1:  # which would be fetched
            self._read()
        fetched = self.weights == COCO_V1
        return {"architecture": self._kind, "fetched_from_pytorch": fetched, "leaky": self.images_seen is None}

    def run(self) -> str:
        """Writes the folder; returns the proposer's id."""
        from mail.proposers import load_proposer

        self._check_out()
        seen = None if self.images_seen is None else read_images(self.images_seen, "coco")
        with Claim(self.out, f"proposer {self.out}", "another --out") as claim:
            network, weights = self._read()
            claim.check()
            folder = write_proposer(
                self.out,
                network=network,
                selection=self._selection(),
                weights=weights,
                seen=seen,
                training={"imported_from": self.weights},
            )
        load_proposer(self.out)  # what cannot be run shall not be found out by a job
        if seen is None:
            say(f"nobody knows which images {self.weights} saw: this proposer counts as leaky (see --images-seen)")
        done(f"wrote {self.out}: {folder.proposer_id}, {len(network.categories)} categories")
        return folder.proposer_id

    @property
    def _kind(self) -> str:
        if self.architecture:
            return self.architecture
        return "mask2former" if self.weights != COCO_V1 and files.is_folder(self.weights) else "r50-fpn-v2"

    def _check_out(self) -> None:
        filesystem, root = files.resolve(self.out)
        if files.exists(filesystem, f"{root}/proposer.json"):
            raise UserError(f"{self.out} already holds a proposer: choose another --out or delete it first")
        files.check_writable(self.out)
        self._selection()

    def _selection(self) -> SelectionConfig:
        return SelectionConfig(
            score_threshold=self.score_threshold, max_instances=self.max_instances, box_nms=0.6, duplicate_iou=0.8
        )

    def _read(self) -> tuple[Network, bytes]:
        if self._kind == "mask2former":
            from mail.proposers.mask2former import read_checkpoint

            return read_checkpoint(self.weights)
        from mail.proposers.torchvision_weights import coco_mask_rcnn

        path = None if self.weights == COCO_V1 else self.weights
        return coco_mask_rcnn(self._kind, path, self.min_size, self.max_size)
