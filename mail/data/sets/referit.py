"""ReferItGame, also RefCLEF (Kazemzadeh et al. 2014): expressions on the 20,000 photos of SAIAPR TC-12.

    ROOT/refclef/refs(berkeley).p       references; `ann_id` is a text, "8756_2": region 2 of photo 8756
    ROOT/refclef/instances.json         its regions, each a list of run lengths
    ROOT/images/saiapr_tc-12            the photos, under the names that instances.json gives them

Numbers of expressions of Berkeley's split, which papers on segmentation report: TransVG (Deng et al. 2021, arXiv
2104.08541), section 4.1. Numbers of validation photos: the README of the mirror jxu124/refclef-benchmark on the Hugging
Face hub, which has a row a photo. The others could not be found.
"""

import re
from pathlib import Path
from typing import Any

from mail.data.refer import find_layout, read_refs
from mail.data.sets.definition import Counts, DataSet
from mail.data.sets.refer_layout import ReferAnnotations
from mail.data.typed import shown

IMAGE_FOLDERS = ("images/saiapr_tc-12", "saiapr_tc-12")
REGIONS = 1000  # more than a photo has
_REGION = re.compile(r"(\d{1,9})_(\d{1,3})", re.ASCII)


def region_number(value: Any, what: str) -> int:
    """The number that the store has for a region: 8756002 for "8756_2"; ValueError where it is none."""
    if not isinstance(value, str) or (found := _REGION.fullmatch(value)) is None:
        raise ValueError(f'{what} must be the number of a photo and of a region in it, as "8756_2", not {shown(value)}')
    return int(found[1]) * REGIONS + int(found[2])


def read(root: Path, split_by: str, images: Path | None) -> ReferAnnotations:
    """The references of ROOT/refclef/refs(SPLIT_BY).p; ids of photos begin with `saiapr/`."""
    layout = find_layout(
        root,
        "refclef",
        split_by,
        images,
        name=f"referit-{split_by}",
        namespace="saiapr",
        image_folders=IMAGE_FOLDERS,
        annotation_id=region_number,
    )
    return ReferAnnotations(layout, read_refs(layout.refs, region_number))


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
    read=read,
)
