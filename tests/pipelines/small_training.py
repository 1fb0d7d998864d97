"""A training of some seconds on the boxes, in this process: what the tests of `train` change one thing of."""

from pipelines.stages.train import Train
from tests.boxes import Boxes


def small_training(boxes: Boxes, **changes: object) -> Train:
    """Six steps of eight expressions, without Ray and the registry."""
    values = {
        "data": boxes.store_uri,
        "masks": boxes.masks_uri,
        "name": "micro",
        "workers": 0,
        "steps": 6,
        "global_batch_size": 8,
        "threads": 1,
        "validation_expressions": 6,
        "register": False,
    }
    return Train(**(values | changes))  # type: ignore[arg-type]  # options by name
