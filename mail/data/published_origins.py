"""What weights that somebody published saw, where they can be told by name or by the digest of their file."""

import re

from mail.data.origins import UNLISTED, Origin

_COCO = Origin.of(collections=["coco/train2017"], without_masks=["imagenet-1k"])
_CLASSES = Origin.of(without_masks=["imagenet-1k"])

# by the first digits of the file's sha256, which torchvision publishes as the end of its name
_TORCHVISION = {
    "bf2d0c1e": ("maskrcnn_resnet50_fpn COCO_V1", _COCO),
    "73cbd019": ("maskrcnn_resnet50_fpn_v2 COCO_V1", _COCO),
    "0676ba61": ("resnet50 IMAGENET1K_V1", _CLASSES),
    "11ad3fa6": ("resnet50 IMAGENET1K_V2", _CLASSES),
}

# facebook/mask2former-swin-tiny-coco-instance and its like; their backbones began with ImageNet's classes
_MASK2FORMER = re.compile(
    r"(?:.*/)?(?:models--facebook--)?(mask2former-swin-\w+(?:-\w+)?-(coco|ade|cityscapes|mapillary-vistas)"
    r"-(?:instance|panoptic|semantic))(?:/snapshots/\w+)?/?"
)
_DATA_SETS = {
    "coco": "coco/train2017",
    "ade": "ade20k",
    "cityscapes": "cityscapes",
    "mapillary-vistas": "mapillary-vistas",
}

# ViLT (Kim et al. 2021, arXiv 2102.03334), section 4.1: MSCOCO, Visual Genome, SBU, GCC, with their captions
_VILT = ("coco/train2014", "visual-genome", "sbu-captions", "conceptual-captions")

# BEiT-3 (Wang et al. 2022, arXiv 2208.10442), as its README lists what each published file saw
_BEIT3 = re.compile(r"beit3_(?:base|large)(|_itc|_indomain)_patch16_224\.pth$")
_WEB = ("imagenet-21k", "laion-400m", "laion-2b", "coyo-700m", "conceptual-captions")
_BEIT3_SAW = {"": _WEB, "_itc": _WEB, "_indomain": (*_WEB, "coco/train2014", "visual-genome")}


def origin_of_file(sha256: str) -> tuple[str, Origin] | None:
    """Name and origin of a file that torchvision published; None for any other."""
    return _TORCHVISION.get(sha256[:8])


def origin_of_coco_v1() -> Origin:
    """Of torchvision's Mask R-CNNs: trained on COCO train2017, from a classifier of ImageNet."""
    return _COCO


def origin_of_checkpoint(path: str) -> tuple[str, Origin] | None:
    """Name and origin of a Mask2Former in a folder that is still called as it was published; None for any other.

    Args:
        path: of the folder, as somebody named it or as the hub's cache keeps it.
    """
    found = _MASK2FORMER.fullmatch(path)
    if found is None:
        return None
    return found[1], Origin.of(collections=[_DATA_SETS[found[2]]], without_masks=["imagenet-1k"])


def origin_of_encoder(name: str) -> Origin:
    """Of a ViLT or a BEiT-3, by its hub name or that of its folder or file. Whatever one saw, it saw without masks: it
    has no place for them, so that the name decides what is shown, and nothing else."""
    if "vilt-b32-mlm" in name:
        return Origin.of(without_masks=_VILT)
    found = _BEIT3.search(name)
    return Origin.of(without_masks=_BEIT3_SAW[found[1] or ""] if found else (UNLISTED,))
