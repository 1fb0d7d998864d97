"""A mask comes out of a PNG as a viewer shows it, however it was written."""

import io

import numpy as np
import pytest
from PIL import Image

from mail.data.mask_png import read_mask_png

MASK = np.zeros((6, 8), bool)
MASK[1:4, 2:5] = True
WHITE = MASK.astype(np.uint8) * 255


def saved(picture: Image.Image, **options) -> bytes:
    out = io.BytesIO()
    picture.save(out, "PNG", **options)
    return out.getvalue()


def palette(mask: np.ndarray, *colours: tuple[int, int, int]) -> Image.Image:
    picture = Image.fromarray(mask.astype(np.uint8), "P")
    picture.putpalette([value for colour in colours for value in colour])
    return picture


def stacked(*channels: np.ndarray) -> Image.Image:
    return Image.fromarray(np.stack(channels, -1).astype(np.uint8))


@pytest.mark.parametrize(
    "picture",
    [
        pytest.param(Image.fromarray(MASK), id="1 bit"),
        pytest.param(Image.fromarray(MASK.astype(np.uint8)), id="0 and 1"),
        pytest.param(Image.fromarray(MASK.astype(np.uint16) * 65535), id="16 bits"),
        pytest.param(Image.fromarray(MASK.astype(np.uint16) * 256), id="16 bits, 0 and 256"),
        pytest.param(palette(MASK, (0, 0, 0), (255, 255, 255)), id="palette"),
        pytest.param(palette(~MASK, (255, 255, 255), (0, 0, 0)), id="palette, white first"),
        pytest.param(palette(MASK, (0, 0, 0), (128, 0, 0)), id="palette, a colour"),
        pytest.param(stacked(WHITE, np.full_like(WHITE, 255)), id="grey and opaque"),
        pytest.param(stacked(WHITE, WHITE), id="grey and the same as alpha"),
        pytest.param(stacked(np.zeros_like(WHITE), WHITE), id="black, mask in alpha"),
        pytest.param(stacked(*[np.full_like(WHITE, 255)] * 3, WHITE), id="white, mask in alpha"),
        pytest.param(stacked(WHITE, WHITE, WHITE, np.full_like(WHITE, 255)), id="colours and opaque"),
    ],
)
def test_what_a_viewer_shows_as_white_is_the_mask(picture: Image.Image) -> None:
    np.testing.assert_array_equal(read_mask_png(saved(picture)), MASK)


def test_a_mask_turns_as_a_viewer_turns_it() -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    np.testing.assert_array_equal(read_mask_png(saved(Image.fromarray(WHITE), exif=exif)), MASK[::-1, ::-1])


def test_a_transparent_colour_of_the_palette_is_background() -> None:
    picture = palette(MASK, (0, 255, 0), (255, 255, 255))
    np.testing.assert_array_equal(read_mask_png(saved(picture, transparency=0)), MASK)


@pytest.mark.parametrize(
    ("picture", "said"),
    [
        (
            Image.fromarray(np.arange(48, dtype=np.uint8).reshape(6, 8)),
            r"the values 0, 1, 2, 3, \.\.\.: a mask has two",
        ),
        (Image.fromarray(np.where(MASK, 255, 127).astype(np.uint8)), "the values 127, 255: a mask has two, 0 for"),
        (palette(MASK, (255, 255, 255), (255, 0, 0)), "the values 255, #ff0000"),
        (stacked(255 - WHITE, WHITE), "shows nothing but black"),
        (stacked(WHITE, np.where(MASK, 128, 255)), r"transparent in part \(alpha 128\)"),
    ],
)
def test_what_is_no_mask_is_refused_with_its_values(picture: Image.Image, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        read_mask_png(saved(picture))
