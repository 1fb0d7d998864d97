"""RefCOCOg, also G-Ref (Mao et al. 2016, arXiv 1511.02283): long expressions on photos of COCO train2014.

The split of UMD (Nagaraja et al. 2016, arXiv 1608.00525) has no photo in two splits; Google's divides objects, and its
test split was never released. Numbers of refs and images: TensorFlow Datasets, catalogue page `ref_coco`. Numbers of
expressions: the papers that use either split, 95,010 in all.
"""

from functools import partial

from mail.data.sets import refer_layout, remote
from mail.data.sets.definition import Counts, DataSet
from mail.data.sets.refer_parquet import Mirror

REFCOCOG = DataSet(
    name="refcocog",
    about="RefCOCOg, also G-Ref (Mao et al., 2016): long expressions. Google's split has photos in both train and val.",
    published={
        "umd": {
            "train": Counts(42226, 80512, 21899),
            "val": Counts(2573, 4896, 1300),
            "test": Counts(5023, 9602, 2600),
        },
        "google": {"train": Counts(44822, 85474, 24698), "val": Counts(5000, 9536, 4650)},
    },
    read=partial(refer_layout.read, "refcocog", mirror=Mirror(split_by="umd", prefix="refcocog")),
    remote=(
        remote.refer_archive("refcocog", "20220413012904", "jxu124/refcocog", ("train", "validation", "test")),
        remote.TRAIN2014,
    ),
    licence=remote.COCO_LICENCE,
)
