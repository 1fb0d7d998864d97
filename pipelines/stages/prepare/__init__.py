"""`mail-ris prepare DATASET`: a data set's own files -> a data store, which every later stage reads.

    mail-ris prepare synthetic --out runs/store --images 1000 --seed 0
    mail-ris prepare refcoco --split-by unc --root data/refer --out s3://bucket/refcoco-unc

What is published is described in `mail.data.sets`, a file a family of data sets; all else has a file here. Needs no
cluster: the disk is the limit. Images are read one at a time (some threads ahead), so memory does not grow with the
data set's pixels.
"""

from pipelines.stage import Stage
from pipelines.stages.prepare.coco_text import PrepareCocoText
from pipelines.stages.prepare.custom import PrepareCheck, PrepareCustom
from pipelines.stages.prepare.joint import PrepareRefcocoJoint
from pipelines.stages.prepare.mix import PrepareMix
from pipelines.stages.prepare.published import PUBLISHED
from pipelines.stages.prepare.synthetic import PrepareScenes, PrepareSynthetic

PREPARE: dict[str, type[Stage]] = {
    "synthetic": PrepareSynthetic,
    "scenes": PrepareScenes,
    **PUBLISHED,
    "refcoco-joint": PrepareRefcocoJoint,
    "coco-text": PrepareCocoText,
    "custom": PrepareCustom,
    "check": PrepareCheck,
    "mix": PrepareMix,
}
