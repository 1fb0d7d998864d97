"""gRefCOCO (Liu, Ding, Jiang 2023, arXiv 2306.00968): expressions that name several objects, or nothing.

The paper gives totals only: 278,232 expressions, of which 32,202 name nothing. The released file has fewer, 258,836, as
users who counted it report (of the authors' copies on Google Drive and on the hub, which are the same); the numbers of
the splits below are theirs.
"""

from functools import partial

from mail.data.sets import refer_layout, remote
from mail.data.sets.definition import Counts, DataSet

GREFCOCO = DataSet(
    name="grefcoco",
    about="gRefCOCO (Liu, Ding, Jiang, 2023): expressions that name several objects, or nothing.",
    published={
        "unc": {
            "train": Counts(expressions=209344),
            "val": Counts(expressions=14229),
            "testA": Counts(expressions=19200),
            "testB": Counts(expressions=16063),
        }
    },
    read=partial(refer_layout.read, "grefcoco"),
    remote=(*remote.GREFCOCO, remote.TRAIN2014),
    licence=f"gRefCOCO is CC BY-NC-SA 4.0, for non-commercial use; {remote.COCO_LICENCE}",
)
