"""ReferItGame, also RefCLEF (Kazemzadeh et al. 2014): expressions on the 20,000 photos of SAIAPR TC-12.

    ROOT/refclef/refs(berkeley).p       references; `ann_id` is a text, "8756_2": region 2 of photo 8756
    ROOT/refclef/instances.json         its regions, each a list of run lengths
    ROOT/images/saiapr_tc-12            the photos, under the names that instances.json gives them

Numbers of expressions of Berkeley's split, which papers on segmentation report: TransVG (Deng et al. 2021, arXiv
2104.08541), section 4.1. Numbers of validation photos: the README of the mirror jxu124/refclef-benchmark on the Hugging
Face hub, which has a row a photo. The others could not be found.
"""

import re
from functools import partial
from typing import Any

from mail.data.sets import refer_layout, remote
from mail.data.sets.definition import Counts, DataSet
from mail.data.sets.refer_parquet import Mirror
from mail.data.typed import shown

REGIONS = 1000  # more than a photo has
_REGION = re.compile(r"(\d{1,9})_(\d{1,3})", re.ASCII)


def region_number(value: Any, what: str) -> int:
    """The number that the store has for a region: 8756002 for "8756_2"; ValueError where it is none."""
    if not isinstance(value, str) or (found := _REGION.fullmatch(value)) is None:
        raise ValueError(f'{what} must be the number of a photo and of a region in it, as "8756_2", not {shown(value)}')
    return int(found[1]) * REGIONS + int(found[2])


REFERIT = DataSet(
    name="referit",
    about="ReferItGame, also RefCLEF (Kazemzadeh et al., 2014): photos of SAIAPR TC-12, things and stuff.",
    published={
        "berkeley": {
            "train": Counts(expressions=54127),
            "val": Counts(expressions=5842, images=1000),
            "test": Counts(expressions=60103),
        },
        "unc": {"val": Counts(images=2000)} | dict.fromkeys(("train", "testA", "testB", "testC"), Counts()),
    },
    read=partial(
        refer_layout.read,
        "refclef",
        mirror=Mirror(split_by=None, prefix="refclef", coco=False),
        name="referit",
        namespace="saiapr",
        image_folders=("images/saiapr_tc-12", "saiapr_tc-12"),
        annotation_id=region_number,
    ),
    remote=(remote.refer_archive("refclef", "20220413011817"), remote.SAIAPR),
    licence="IAPR TC-12's photos are free of charge and without copyright restrictions (imageclef.org/photodata)",
)
