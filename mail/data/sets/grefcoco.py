"""gRefCOCO (Liu, Ding, Jiang 2023, arXiv 2306.00968): expressions that name several objects, or nothing.

No published number is compared: the paper gives totals only, 278,232 expressions of which 32,202 name nothing, and
users of the released file report others.
"""

from functools import partial

from mail.data.sets import refer_layout, remote
from mail.data.sets.definition import Counts, DataSet

GREFCOCO = DataSet(
    name="grefcoco",
    about="gRefCOCO (Liu, Ding, Jiang, 2023): expressions that name several objects, or nothing.",
    published={"unc": dict.fromkeys(("train", "val", "testA", "testB"), Counts())},
    read=partial(refer_layout.read, "grefcoco"),
    remote=(*remote.GREFCOCO, remote.TRAIN2014),
    licence=f"gRefCOCO is for non-commercial use; {remote.COCO_LICENCE}",
)
