"""RefCOCO and RefCOCO+ (Yu et al. 2016, arXiv 1608.00272): expressions from a two-player game on COCO train2014.

Numbers of refs and images: TensorFlow Datasets, catalogue page `ref_coco` (made from the same `refs(*.p)` files).
Numbers of expressions: as the REFER tool and the papers that use it report them, 142,210 and 141,564 in all. Where no
source could be found the number is left out: expressions of RefCOCO (Google).
"""

from functools import partial

from mail.data.sets import refer_layout, remote
from mail.data.sets.definition import Counts, DataSet
from mail.data.sets.refer_parquet import Mirror

SPLITS = ("train", "validation", "test", "testB")  # of the mirrors

REFCOCO = DataSet(
    name="refcoco",
    about="RefCOCO (Yu et al., 2016): short expressions, place words allowed.",
    published={
        "unc": {
            "train": Counts(42404, 120624, 16994),
            "val": Counts(3811, 10834, 1500),
            "testA": Counts(1975, 5657, 750),
            "testB": Counts(1810, 5095, 750),
        },
        "google": {
            "train": Counts(40000, None, 19213),
            "val": Counts(5000, None, 4559),
            "test": Counts(5000, None, 4527),
        },
    },
    read=partial(
        refer_layout.read,
        "refcoco",
        mirror=Mirror(split_by="unc", prefix="refcoco", splits={"validation": "val", "test": "testA"}),
    ),
    remote=(remote.refer_archive("refcoco", "20220413011718", "jxu124/refcoco", SPLITS), remote.TRAIN2014),
    licence=remote.COCO_LICENCE,
)

REFCOCO_PLUS = DataSet(
    name="refcoco+",
    about="RefCOCO+ (Yu et al., 2016): no words of absolute place.",
    published={
        "unc": {
            "train": Counts(42278, 120191, 16992),
            "val": Counts(3805, 10758, 1500),
            "testA": Counts(1975, 5726, 750),
            "testB": Counts(1798, 4889, 750),
        }
    },
    read=partial(
        refer_layout.read,
        "refcoco+",
        mirror=Mirror(split_by="unc", prefix="refcoco_plus", splits={"validation": "val", "test": "testA"}),
    ),
    remote=(remote.refer_archive("refcoco+", "20220413011656", "jxu124/refcocoplus", SPLITS), remote.TRAIN2014),
    licence=remote.COCO_LICENCE,
)
