"""Where the files of published data sets are, for `prepare NAME --download DIR`.

None of these addresses was ever tried by this project: it was made where they cannot be reached. They are those of the
authors' pages and readers, and of mirrors that users of the field name where those are gone. Digests are given where
somebody published them; the others are written down when a file is fetched for the first time.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class RemoteFile:
    """A file of a data set.

    Attributes:
        name: in the folder of downloads; unique among all data sets.
        addresses: in the order in which they are tried; the authors' own first. None: `by_hand` says how to get it.
        into: the folder, in that of downloads, that it is unpacked into; None for a file that is used as it is.
        gives: what is in the folder of downloads when it is there: whoever has that needs no download.
        bytes, sha256: published; None where nobody published them.
        instead: files that do as well where no address answers.
        by_hand: what a person has to do where no program may fetch it, or where no address gives it.
    """

    name: str
    addresses: tuple[str, ...] = ()
    into: str | None = None
    gives: str
    bytes: int | None = None
    sha256: str | None = None
    instead: tuple["RemoteFile", ...] = ()
    by_hand: str = ""


PHOTOS = "images"
_UNC = "https://bvisionweb1.cs.unc.edu/licheng/referit/data"
_HUB = "https://huggingface.co/datasets"
_DRIVE = "https://drive.usercontent.google.com/download?export=download&confirm=t&id="
COCO_LICENCE = "COCO's annotations are CC BY 4.0; every photo keeps the Flickr licence that instances.json names"

TRAIN2014 = RemoteFile(
    name="train2014.zip",
    # length and sha256: torchvision's own description of COCO, and the pointer of the mirror
    addresses=(
        "http://images.cocodataset.org/zips/train2014.zip",
        f"{_HUB}/BAAI/DataOptim/resolve/main/images/coco/train2014.zip",
    ),
    into=PHOTOS,
    gives="images/train2014",
    bytes=13_510_573_713,
    sha256="ede4087e640bddba550e090eae701092534b554b42b05ac33f0300b984b31775",
)


def refer_archive(dataset: str, archived: str, mirror: str = "", splits: tuple[str, ...] = ()) -> RemoteFile:
    """The annotations of a data set of the REFER API.

    Args:
        archived: when the Internet Archive took its copy of UNC's file.
        mirror: of the hub, in Parquet form, and its splits.
    """
    parquet = tuple(
        RemoteFile(
            name=f"{dataset}-parquet/{split}.parquet",
            addresses=(f"{_HUB}/{mirror}/resolve/refs%2Fconvert%2Fparquet/default/{split}/0000.parquet",),
            gives=f"{dataset}-parquet/{split}.parquet",
        )
        for split in splits
    )
    name = f"{dataset}.zip"
    return RemoteFile(
        name=name,
        addresses=(f"{_UNC}/{name}", f"https://web.archive.org/web/{archived}/{_UNC}/{name}"),
        into="",
        gives=f"{dataset}/instances.json",
        instead=parquet,
    )


SAIAPR = RemoteFile(
    name="saiapr_tc-12.zip",
    addresses=(
        f"{_UNC}/images/saiapr_tc-12.zip",
        f"https://web.archive.org/web/20220515000000/{_UNC}/images/saiapr_tc-12.zip",
        f"{_HUB}/nanom/refclef/resolve/main/data/saiapr_tc-12.zip",
    ),
    into=PHOTOS,
    gives="images/saiapr_tc-12",
)

GREFCOCO = tuple(
    RemoteFile(
        name=f"grefcoco/{name}",
        addresses=(f"{_HUB}/FudanCVL/gRefCOCO/resolve/main/{name}",),
        gives=f"grefcoco/{name}",
        by_hand="Its authors have it on Google Drive too, for people: https://github.com/henghuiding/gRefCOCO",
    )
    for name in ("grefs(unc).json", "instances.json")
)

PHRASECUT = tuple(
    RemoteFile(
        name=name,
        addresses=(_DRIVE + key,),
        gives=name,
        by_hand="Google may want a person: https://drive.google.com/drive/folders/1oxRFGV_JHZO6dZSpeBSXNf9J_VLCkgL0",
    )
    for name, key in {
        "image_data_split.json": "1xB9eExJo35K3DQu8PnBWZ1q_OMoMl8-i",
        "refer_train.json": "1qx-0q6r9r0YUGpoyT0B8HJKmUFWQDSu7",
        "refer_val.json": "1UyojArOFPlsSeNbA9fHWjCjOOU-OCohG",
        "refer_test.json": "1jrzXm1gcq6f5hNDeamZd0UmyyHUv61IZ",
        "refer_miniv.json": "1oLcTQ1blTIQyu5ZMelQN2HSniuQaxM4E",
    }.items()
)

VISUAL_GENOME = (
    RemoteFile(
        name="images.zip",
        addresses=(
            "https://cs.stanford.edu/people/rak248/VG_100K_2/images.zip",
            f"{_HUB}/BAAI/DataOptim/resolve/main/images/visual_genome/images.zip",
        ),
        into=PHOTOS,
        gives="images/VG_100K",
    ),
    RemoteFile(
        name="images2.zip",
        # length and sha256: the pointer of the mirror
        addresses=(
            "https://cs.stanford.edu/people/rak248/VG_100K_2/images2.zip",
            f"{_HUB}/BAAI/DataOptim/resolve/main/images/visual_genome/images2.zip",
        ),
        into=PHOTOS,
        gives="images/VG_100K_2",
        bytes=5_471_658_058,
        sha256="99da1a0ddf87011319ff3b05cf9176ffee2731cc3c52951162d9ef0d68e3cfb5",
    ),
)
