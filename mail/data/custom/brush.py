"""Label Studio's brush masks: run lengths of RGBA pixels, packed as bits (@thi.ng/rle-pack), whose alpha is the mask.

The bits are: 32 of the number of values, 5 of the bits a value has (less 1), four times 4 of the bits of a length (less
1); then runs. A run is one bit (1: a value that repeats, 0: values one by one), two that choose the bits of its length,
the length (less 1), and the value or values.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from mail import rle
from mail.data.orientation import Size

LENGTHS = (3, 4, 8, 16)  # bits of a run's length, in what is written


@dataclass
class BrushMask:
    """The `rle` of a brush region, and the (height, width) of its picture."""

    packed: Any
    size: Size

    def segmentation(self, photo_size: Callable[[], Size]) -> rle.RLE:
        return rle.encode(decode_brush(self.packed, *self.size))


def decode_brush(packed: Any, height: int, width: int) -> np.ndarray:
    """The mask in a brush region's `rle`: bool (H, W), where it is at least half as opaque as it gets anywhere.

    Its borders are soft, and what programs bring into Label Studio may be faint all over.

    Raises:
        ValueError: it is no list of bytes, is cut off, or is of another size.
    """
    try:
        data = np.array(packed, np.uint8) if all(type(v) is int and 0 <= v < 256 for v in packed) else None
    except TypeError:
        data = None
    if data is None or data.ndim != 1:
        raise ValueError("its rle is no list of bytes, as Label Studio's brush has it")
    bits = _Bits((np.unpackbits(data) + ord("0")).tobytes().decode())
    number, of_value, lengths = bits.take(32), bits.take(5) + 1, [bits.take(4) + 1 for _ in range(4)]
    if number != 4 * height * width:
        raise ValueError(f"its brush mask has {number} values, and not 4 for each of {height} x {width} pixels")
    if of_value > 16:
        raise ValueError(f"its brush mask has values of {of_value} bits, and not of 8")
    alpha = np.zeros(height * width, np.uint16)
    at = 0
    while at < number:
        repeats = bits.take(1)
        end = at + 1 + bits.take(lengths[bits.take(2)])
        if end > number:
            raise ValueError("its brush mask has more values than its picture")
        if repeats:  # of these values, those of the alpha are every fourth
            alpha[at // 4 : end // 4] = bits.take(of_value)
        else:
            for place in range(at, end):
                value = bits.take(of_value)
                if place % 4 == 3:
                    alpha[place // 4] = value
        at = end
    return (alpha >= max(1, (int(alpha.max()) + 1) // 2)).reshape(height, width)


def encode_brush(mask: np.ndarray) -> list[int]:
    """A brush region's `rle` of a mask, bool (H, W): byte for byte what `mask2rle` of Label Studio's SDK gives."""
    values = mask.ravel()
    edges = [0, *(np.flatnonzero(values[1:] != values[:-1]) + 1).tolist(), len(values)]
    bits = [f"{4 * len(values):032b}{7:05b}", *(f"{size - 1:04b}" for size in LENGTHS)]
    for begin, end in pairwise(edges):
        left, value = 4 * (end - begin), f"{255 if values[begin] else 0:08b}"
        choice = next((c for c, size in enumerate(LENGTHS) if left <= 2**size), 3)
        while left > 0:
            length = min(left, 2**16)
            bits.append(f"1{choice:02b}{length - 1:0{LENGTHS[choice]}b}{value}")
            left -= length
    text = "".join(bits)
    text += "0" * (8 - len(text) % 8)  # a whole byte where there is nothing to fill, as the SDK does it
    return np.packbits(np.frombuffer(text.encode(), np.uint8) - ord("0")).tolist()


class _Bits:
    """Numbers taken from a text of zeros and ones."""

    def __init__(self, text: str):
        self.text, self.at = text, 0

    def take(self, size: int) -> int:
        end = self.at + size
        if end > len(self.text):
            raise ValueError("its brush mask is cut off")
        value = int(self.text[self.at : end], 2)
        self.at = end
        return value
