"""What of an instances file a proposer can learn from and be measured by, said before anything starts.

Every annotation's form was seen when the file was indexed. Masks are made of the held-out images' annotations, and of
the first training images': as many as it takes to know that there is something to learn, and to compare what the file
declares with what its masks are.
"""

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from mail.data.coco_masks import CocoMasks
from mail.errors import UserError
from mail.proposers.training import InstanceImages
from mail.proposers.training_images import TrainingImages

LOOKED_AT = 200  # training images


def examine(images: InstanceImages, chosen: TrainingImages) -> list[str]:
    """What a person should know of the annotations of the chosen images: a sentence each.

    Raises:
        UserError: there is not one mask to learn from; says what the annotations are instead, and how many.
    """
    coco, masks = images.coco, CocoMasks(images.coco)
    lines = [f"left out of the training: {n} annotations {reason}" for reason, n in _unfit(images, chosen.train)]
    found, reasons = 0, Counter[str]()
    for place, image_id in enumerate(chosen.train):
        if place >= LOOKED_AT and found:
            break
        found += _measure(images, masks, image_id, reasons)
    if not found:
        told = "; ".join(f"{count} {reason}" for reason, count in reasons.most_common(4))
        raise UserError(
            f"{coco.path}: there is no mask to learn from on its {len(chosen.train)} training images: of their "
            f"{sum(reasons.values())} annotations, {told or 'there are none'}"
        )
    held_out = sum(_measure(images, masks, image_id, Counter()) for image_id in chosen.held_out)
    if not held_out:
        lines.append(
            f"the proposer will not be measured: the {len(chosen.held_out)} held-out images have no instance with a "
            "mask (see --holdout-fraction)"
        )
    return [*coco.remarks(), *lines, *masks.remarks()]


def _measure(images: InstanceImages, masks: CocoMasks, image_id: int, reasons: Counter[str]) -> int:
    """Number of an image's instances that can be learned; the others are counted by the reason."""
    found = 0
    for instance in images.coco.instances_of(image_id):
        try:
            images.mask(instance)
            masks.measure(instance)
        except ValueError as error:
            reasons[str(error)] += 1
        else:
            found += 1
    return found


def _unfit(images: InstanceImages, image_ids: Sequence[int]) -> Iterator[tuple[str, int]]:
    """Reasons by which annotations of these images are not learned, as far as the index tells, with their number."""
    coco = images.coco
    here = np.isin(coco.image_ids, image_ids)
    if crowds := int((here & coco.is_crowd).sum()):
        yield "are crowds", crowds
    rest = here & ~coco.is_crowd
    if images.categories is not None and (n := int((rest & ~np.isin(coco.category_ids, images.categories)).sum())):
        yield "are of categories that the file does not list", n
    for place, reason in enumerate(coco.reasons):
        if place and (n := int((rest & (coco.faults == place)).sum())):
            yield f"have no usable mask: {reason}", n
