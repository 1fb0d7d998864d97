"""`mail-ris import-proposer --weights WEIGHTS --out PROPOSER`: a published network becomes a proposer as it is.

WEIGHTS is a state dict of torchvision's Mask R-CNN, the word COCO_V1 (torchvision's published one, fetched where there
is a network), or a local checkpoint folder of transformers' Mask2Former. Weights that are known, by their digest or by
the name that they were published under, carry what they saw; --images-seen says it of others. Otherwise the proposer is
of unknown origin, which counts as leaky.
"""

import dataclasses
from typing import Annotated, Any, Literal

import tyro

from mail.data import files
from mail.data.image_lists import origin_of
from mail.data.origins import COLLECTIONS, UNKNOWN, Origin
from mail.data.published_origins import origin_of_coco_v1
from mail.errors import UserError
from mail.proposers.config import Network, SelectionConfig
from mail.proposers.folder import write_proposer
from pipelines.claiming.claim import Claim
from pipelines.options import Address, Place, Seen, Target, as_typed
from pipelines.stage import Stage
from pipelines.terminal import done, say

COCO_V1 = "COCO_V1"


SEEN_HELP = (
    "What the weights saw, where they do not tell it themselves; several are taken together: files of image ids (one a "
    "line, a JSON list, a COCO annotations file; bare numbers are COCO's), data stores (whose photos are then known "
    f"by content), collections: {', '.join(COLLECTIONS)}, or NAME/* for all ids of NAME; none for nothing. Otherwise "
    "their origin is unknown, and everything made with them counts as leaky."
)


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

    images_seen: Annotated[tuple[Seen, ...], tyro.conf.arg(help=SEEN_HELP)] = ()

    images_not_seen: Address | None = None
    """With a collection: file that lists images of it which the weights did not see (as for coco/train2017 COCO's
    own instances_val2017.json)."""

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
        origin, fetched = self._origin(), self.weights == COCO_V1
        plan = {"architecture": self._kind, "fetched_from_pytorch": fetched, "leaky": origin.unknown}
        return plan | {"saw": str(origin)}

    def run(self) -> str:
        """Writes the folder; returns the proposer's id."""
        from mail.proposers import load_proposer

        self._check_out()
        with Claim(self.out, f"proposer {self.out}", "another --out") as claim:
            origin = self._origin()
            network, weights = self._read()
            claim.check()
            folder = write_proposer(
                self.out,
                network=network,
                selection=self._selection(),
                weights=weights,
                seen=origin,
                training={"imported_from": self.weights},
            )
        load_proposer(self.out)  # what cannot be run shall not be found out by a job
        if origin.unknown:
            say(f"nobody knows which images {self.weights} saw: this proposer counts as leaky (see --images-seen)")
        else:
            say(f"it saw {origin}")
        done(f"wrote {self.out}: {folder.proposer_id}, {len(network.categories)} categories")
        return folder.proposer_id

    def __post_init__(self) -> None:
        # callers in Python may name one
        self.images_seen = (self.images_seen,) if isinstance(self.images_seen, str) else self.images_seen
        super().__post_init__()

    def _origin(self) -> Origin:
        if self.images_seen or self.images_not_seen:
            named = () if self.images_seen == ("none",) else self.images_seen
            return origin_of(named, self.images_not_seen, "coco")
        if self.weights == COCO_V1:
            return origin_of_coco_v1()
        from mail.proposers.origin import origin_of_weights

        known = origin_of_weights(self.weights)
        if known is None:
            return UNKNOWN
        say(f"{self.weights} is {known[0]}")
        return known[1]

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
