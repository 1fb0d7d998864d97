"""How annotations lie on a photo that its EXIF orientation turns: on what a viewer shows, or on the pixels as stored.

Both are met in the world: some tools read the tag and some do not. Where the two have different sizes, the size that
the annotations declare tells which it was. Where not (turned by 180 degrees, mirrored, square, or no size declared),
a choice decides, which whoever prepares the data makes and is told about.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from mail.errors import first_few

Size = tuple[int, int]
Box = tuple[float, float, float, float]
ExifAnnotated = Literal["as-shown", "as-stored"]
AS_SHOWN: ExifAnnotated = "as-shown"


@dataclass(frozen=True, slots=True)
class Placement:
    """How annotations come onto the upright image.

    Attributes:
        annotated: (height, width) that they were made for. upright: that of the image as a viewer shows it.
        turn: the EXIF orientation that they have to be turned by, 1 for none.
        told: the sizes tell so, or there is no rotation; else it was chosen.
    """

    annotated: Size
    upright: Size
    turn: int = 1
    told: bool = True


def place(stored: Size, orientation: int, declared: Size | None, chosen: ExifAnnotated) -> Placement | None:
    """How annotations lie on an image.

    Args:
        stored: (height, width) of the pixels in the file. orientation: EXIF's, 1..8.
        declared: the size that the annotations were made for, if they say so.
        chosen: what is right where sizes cannot tell.

    Returns:
        None if the annotations belong to an image of another size.
    """
    upright = stored[::-1] if orientation >= 5 else stored
    if declared not in (None, stored, upright):
        return None
    told = orientation == 1 or (declared is not None and stored != upright)
    as_stored = declared == stored if told else chosen == "as-stored"
    if orientation == 1 or not as_stored:
        return Placement(upright, upright, told=told)
    return Placement(stored, upright, orientation, told)


def turn_box(box: Box, size: Size, orientation: int) -> Box:
    """Turns a box (left, top, right, bottom) on the stored pixels of `size` (H, W) as the image is turned upright."""
    height, width = size
    left, top, right, bottom = box
    if orientation in (2, 3, 7, 8):  # left and right change places
        left, right = width - right, width - left
    if orientation in (3, 4, 6, 7):  # top and bottom do
        top, bottom = height - bottom, height - top
    return (left, top, right, bottom) if orientation < 5 else (top, left, bottom, right)


def assumption(names: Sequence[object], chosen: ExifAnnotated) -> str:
    """The line about images for which sizes could not tell, and how to choose otherwise."""
    on, other = ("what a viewer shows", "as-stored") if chosen == AS_SHOWN else ("the stored pixels", AS_SHOWN)
    return (
        f"{len(names)} images are turned by EXIF in a way that their size does not tell; their annotations are taken "
        f"as made on {on} (else: --exif-annotated {other}): {first_few(names)}"
    )
