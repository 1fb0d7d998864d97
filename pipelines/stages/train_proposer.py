"""`mail-ris train-proposer --instances FILE --images DIR --out PROPOSER`: trains a Mask R-CNN with Ray Train.

OUT/proposer.json, model.safetensors, images.json    the proposer, once it is finished
OUT/training/                                        checkpoints until then; the same command goes on from them
"""

from dataclasses import dataclass
from typing import Any

from mail.data import files
from pipelines.ending import EndRequested
from pipelines.stage import Stage
from pipelines.training.proposer_config import ProposerTrainingConfig


@dataclass(kw_only=True)
class TrainProposer(ProposerTrainingConfig, Stage):
    """COCO-format instances -> Mask R-CNN weights and the list of images it saw."""

    def plan(self) -> dict[str, Any]:
        from pipelines.training.proposer_plan import check_weights, plan_training, seen_before

        files.check_writable(self.out)
        job, chosen, remarks = plan_training(self)
        check_weights(job)
        return {
            "images": len(job.train),
            "held_out": len(job.held_out),
            "excluded": chosen.excluded,
            "left_out": chosen.left_out,
            "exif_assumed": len(chosen.assumed),
            "remarks": remarks,
            "image_ids": f"{chosen.namespace}/...",
            "weights_saw": str(seen_before(self, chosen.namespace)),
            "epochs": round(job.steps * job.batch_size / len(job.train), 2),
            "job": job.recipe(),
        }

    def run(self) -> dict[str, Any]:
        """Trains; what comes back is `pipelines.training.proposer.train_proposer`'s."""
        from pipelines.training.proposer import train_proposer

        return train_proposer(self)

    def tell_kept(self, end: EndRequested) -> None:
        from pipelines.training.kept import tell_proposer

        tell_proposer(end, self)
