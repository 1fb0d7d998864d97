"""Mask AP as COCO defines it (https://cocodataset.org/#detection-eval), by pycocotools, without files in between."""

import contextlib
import io
from collections.abc import Callable, Mapping
from typing import Any

from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mail import rle
from mail.data.coco import CocoInstance, CocoInstances
from mail.proposals import Proposals

NAMES = ("mask_AP", "mask_AP50", "mask_AP75", "mask_AP_small", "mask_AP_medium", "mask_AP_large")


def mask_ap(
    coco: CocoInstances,
    found: Mapping[int, Proposals],
    class_agnostic: bool,
    mask_of: Callable[[CocoInstance], rle.RLE] | None = None,
) -> dict[str, float | None]:
    """AP of proposals against the annotations of the same images; crowds count as COCO counts them.

    Args:
        found: proposals by COCO image id; images without any belong to it too.
        class_agnostic: all categories are one, as for a network that knows no others.
        mask_of: gives the mask of an instance, ValueError if it has none (default: as it was annotated).

    Returns:
        `NAMES`, each 0 .. 1, None where it is not measured: there is no instance of that size.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for image_id, proposals in found.items():
        height, width = proposals.size
        images.append({"id": image_id, "height": height, "width": width})
        for instance in coco.instances_of(image_id):
            try:
                mask = (mask_of or coco.mask)(instance)
            except ValueError:
                continue  # nobody can be measured against a polygon that is none
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": 1 if class_agnostic else instance.category_id,
                    "segmentation": mask,
                    "area": rle.area(mask),
                    "iscrowd": int(instance.is_crowd),
                }
            )
        for score, label, mask in zip(proposals.scores, proposals.labels, proposals.rles, strict=True):
            category = 1 if class_agnostic else int(label)
            results.append({"image_id": image_id, "category_id": category, "segmentation": mask, "score": float(score)})
    if not results or not annotations:
        return dict.fromkeys(NAMES, 0.0 if annotations else None)
    categories = [1] if class_agnostic else sorted(coco.categories)
    with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does
        truth = COCO()
        truth.dataset = {
            "images": images,
            "annotations": annotations,
            "categories": [{"id": c, "name": str(c)} for c in categories],
            "info": {},
        }
        truth.createIndex()
        evaluation: Any = COCOeval(truth, truth.loadRes(results), "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    # pycocotools says -1 for what there is none of
    return {n: float(value) if value >= 0 else None for n, value in zip(NAMES, evaluation.stats, strict=False)}
