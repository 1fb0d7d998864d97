"""The processor: geometry there and back, rasterising, words."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from mail import rle
from mail.model import MailProcessor, tokenizer_from_texts
from mail.proposals import Proposals


def processor(**changes) -> MailProcessor:
    return MailProcessor(tokenizer_from_texts(["a dog"]), **{"image_size": 128, "mask_stride": 4, **changes})


def disc(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    radius = min(height, width) / 4
    return (y + 0.5 - height * 0.4) ** 2 + (x + 0.5 - width * 0.6) ** 2 < radius**2


def centre(mask: np.ndarray) -> np.ndarray:
    return np.argwhere(mask).mean(0) + 0.5


@pytest.mark.parametrize("size", [(128, 128), (101, 333), (333, 101), (97, 131), (480, 640), (427, 640), (64, 50)])
@pytest.mark.parametrize("stride", [2, 4])
def test_a_disc_comes_back_where_it_was(size, stride):
    p = processor(mask_stride=stride)
    mask = disc(*size)
    cells = p.rasterise([rle.encode(mask)], size)
    logits = torch.from_numpy(cells).float() - 127.5
    outputs = SimpleNamespace(mask_logits=logits, selection_logits=None, no_target_logits=torch.tensor([-5.0]))
    back = p.post_process(outputs, [size])[0].mask
    assert back.shape == size
    assert np.abs(centre(back) - centre(mask)).max() < 0.5
    assert (back & mask).sum() / (back | mask).sum() > 0.9


@pytest.mark.parametrize("size", [(97, 131), (131, 97), (128, 128)])
def test_image_and_mask_land_on_the_same_pixels(size):
    p = processor(mask_stride=2)
    mask = disc(*size)
    image = np.repeat((mask * 255).astype(np.uint8)[..., None], 3, 2)
    pixels = p.encode_image(image)["pixel_values"][0].reshape(64, 2, 64, 2).mean((1, 3))
    assert np.abs(pixels - p.rasterise([rle.encode(mask)], size)[0].astype(float)).mean() < 3


@pytest.mark.parametrize("size", [(480, 640), (427, 640), (97, 31), (1, 50), (300, 300), (1201, 907)])
def test_an_image_is_resized_as_pillow_does(size):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    encoded = processor(image_size=96).encode_image(image)
    height, width = encoded["pixel_size"]
    theirs = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
    ours = encoded["pixel_values"][:, :height, :width].transpose(1, 2, 0)
    assert np.abs(ours.astype(int) - theirs).max() <= 1
    assert (ours == theirs).mean() > 0.7


def test_coverage_is_exact_at_full_resolution():
    mask = disc(128, 128)
    cells = processor(mask_stride=1).rasterise([rle.encode(mask)], (128, 128))[0]
    assert np.array_equal(cells == 255, mask)


def test_padding_of_the_canvas_is_empty():
    encoded = processor().encode_image(np.full((50, 100, 3), 200, np.uint8))
    assert encoded["pixel_size"].tolist() == [64, 128]
    assert encoded["pixel_values"][:, :64].min() == 200
    assert encoded["pixel_values"][:, 64:].max() == 0


def test_best_proposals_are_kept_with_their_ious():
    masks = np.zeros((3, 40, 40), bool)
    for i in range(3):
        masks[i, 10 * i : 10 * i + 10] = True
    rles = rle.encode_many(masks)
    boxes = np.array([rle.bbox(r) for r in rles], np.float32)
    found = Proposals((40, 40), np.array([0.2, 0.9, 0.5], np.float32), np.array([4, 5, 6], np.int32), boxes, rles)
    p = processor(max_instances=2)
    encoded = p.encode_proposals(found)
    assert encoded["instance_labels"].tolist() == [5, 6]
    assert np.allclose(encoded["instance_boxes"], [[0, 0.25, 1, 0.5], [0, 0.5, 1, 0.75]])
    ious = p.encode_targets([rles[2], rles[0]], found)["instance_ious"]
    assert np.allclose(ious, [[0, 1], [0, 0]])


def test_selection_comes_back_in_the_order_of_the_proposals():
    rles = rle.encode_many(np.ones((3, 40, 40), bool))
    found = Proposals(
        (40, 40), np.array([0.2, 0.9, 0.5], np.float32), np.ones(3, np.int32), np.zeros((3, 4), np.float32), rles
    )
    outputs = SimpleNamespace(
        mask_logits=torch.zeros(1, 32, 32),
        selection_logits=torch.tensor([[0.0, 9.0, 1.0]]),
        no_target_logits=torch.tensor([-5.0]),
    )
    selection = processor(max_instances=2).post_process(outputs, [(40, 40)], [found])[0].selection
    assert selection.argmax() == 1
    assert selection[0] == 0


def test_no_target_leaves_the_mask_empty():
    outputs = SimpleNamespace(
        mask_logits=torch.full((1, 32, 32), 9.0), selection_logits=None, no_target_logits=torch.tensor([3.0])
    )
    answer = processor().post_process(outputs, [(40, 60)])[0]
    assert not answer.mask.any()
    assert answer.no_target_probability > 0.9


def test_long_expressions_lose_their_end_and_empty_ones_stay():
    p = processor(max_text_length=10)
    encoded = p.encode_texts(["dog " * 200, ""])
    assert encoded["input_ids"].shape == (2, 10)
    assert encoded["attention_mask"].sum(1).tolist() == [10, 2]


def test_wrong_number_of_texts_is_an_error():
    image = np.zeros((8, 8, 3), np.uint8)
    with pytest.raises(ValueError, match="do not match"):
        processor()([image, image], ["one"])
