"""What a table will need, before anything is begun: downloads, disk, hours, cost, row by row."""

from typing import Any

from mail.data.sets.remote import TRAIN2014
from pipelines.reproducing.config import ReproduceConfig
from pipelines.reproducing.paper import Row, images_of, parts

PHOTOS_OF_TRAIN2014 = 82_783
BYTES_A_PHOTO = (TRAIN2014.bytes or 0) / PHOTOS_OF_TRAIN2014
BYTES_A_PARAMETER = 4 + 2 * 12  # the model, and two checkpoints with AdamW's moments
EXPLAINED = (
    "GPU hours are those of the trainings, steps x batch / --gpu-speed, on one GPU; those of the proposer, the masks "
    "and the evaluations are not in them, for they were never measured at this size. Disk: photos once more in each "
    "data store, and of each training a model and two checkpoints; what is downloaded comes on top."
)


def needs(config: ReproduceConfig, rows: tuple[Row, ...]) -> dict[str, Any]:
    """What the data sets of these rows need, and all together; ready for JSON."""
    from mail.model import describe, find_preset

    preset = find_preset(config.preset)
    steps = config.steps or preset.steps
    trainings = config.seeds * (2 if config.ablate else 1)
    hours = trainings * steps * preset.global_batch_size / config.gpu_speed / 3600
    runs = trainings * describe(preset.config())["parameters"] * BYTES_A_PARAMETER
    found = {
        part: {
            "rows": [r.key for r in rows if r.part == part],
            "trainings": trainings,
            "gpu_hours": round(hours, 2),
            "disk_gb": round((images_of(row) * BYTES_A_PHOTO + runs) / 1e9, 1),
        }
        for part, row in parts(rows).items()
    }
    if config.gpu_price is not None:
        for part in found.values():
            part["cost"] = round(part["gpu_hours"] * config.gpu_price, 2)
    names = ("gpu_hours", "disk_gb", *(("cost",) if config.gpu_price is not None else ()))
    total = {name: round(sum(part[name] for part in found.values()), 2) for name in names}
    return {"data_sets": found, "together": total, "what_this_counts": EXPLAINED}
