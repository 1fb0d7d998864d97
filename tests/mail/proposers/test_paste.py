"""Masks in boxes become masks in images, at the right place and without duplicates."""

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.models.detection.roi_heads import paste_masks_in_image

from mail import rle
from mail.proposers.config import SelectionConfig
from mail.proposers.paste import Detections, paste, select
from mail.proposers.rows import DETECTED


@pytest.mark.parametrize("box", [(4, 6, 20, 30), (-5.5, -3, 9, 12), (30.2, 20.7, 60, 45), (10, 10, 11, 11)])
def test_a_full_mask_fills_its_box_within_the_image(box: tuple[float, ...]) -> None:
    found = rle.decode(paste(np.ones((28, 28), np.float32), np.array(box, np.float32), (40, 50)).encode((40, 50)))
    x0, y0, x1, y1 = (round(v) for v in box)
    expected = np.zeros((40, 50), bool)
    expected[max(0, y0) : y1, max(0, x0) : x1] = True
    assert (found != expected).sum() <= 0.08 * expected.sum()  # a row or column whose centre lies on the very border


def test_a_box_outside_the_image_gives_the_empty_mask() -> None:
    for box in ([60, 5, 80, 20], [-30, -30, -10, -10], [5, 41, 9, 60]):
        assert paste(np.ones((14, 14), np.float32), np.array(box, np.float32), (40, 50)).area == 0


def test_pasting_agrees_with_torchvision() -> None:
    """torchvision rounds boxes to whole pixels, so the outlines may differ by about one."""
    random = np.random.default_rng(0)
    rows, columns = np.mgrid[:28, :28] - 13.5
    for _ in range(20):
        mask = (1 / (1 + np.exp(np.hypot(rows, columns * 1.3) - random.uniform(6, 12)))).astype(np.float32)
        x0, y0 = random.uniform(-10, 60, 2)
        box = np.array([x0, y0, x0 + random.uniform(30, 90), y0 + random.uniform(30, 90)], np.float32)
        ours = rle.decode(paste(mask, box, (120, 160)).encode((120, 160)))
        theirs = paste_masks_in_image(torch.tensor(mask)[None, None], torch.tensor(box)[None], (120, 160))
        theirs = theirs[0, 0].numpy() >= 0.5
        assert (ours & theirs).sum() / (ours | theirs).sum() > 0.85


def paste_plainly(mask: np.ndarray, box: np.ndarray, size: tuple[int, int], threshold: float, edge: bool) -> rle.RLE:
    """Onto a whole image, from which pycocotools makes the run lengths."""
    spans, weights = [], []
    for low, high, cells, pixels in zip(box[:2].tolist(), box[2:].tolist(), mask.shape[::-1], size[::-1], strict=True):
        length = max(high - low, 1e-3)
        margin = 0.0 if edge else 0.5 * length / cells
        span = slice(max(0, int(np.floor(low - margin))), min(pixels, int(np.ceil(high + margin))))
        if span.stop <= span.start:
            return rle.empty(*size)
        centres = (np.arange(span.start, span.stop, dtype=np.float32) + 0.5 - low) / length * cells - 0.5
        centres = np.clip(centres, 0, cells - 1) if edge else centres
        distance = np.abs(centres[:, None] - np.arange(cells, dtype=np.float32)[None, :])
        spans.append(span)
        weights.append(np.maximum(0, 1 - distance))
    canvas = np.zeros(size, np.uint8, order="F")
    canvas[spans[1], spans[0]] = weights[1] @ mask.astype(np.float32) @ weights[0].T >= threshold
    return rle.coco_mask.encode(canvas)


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_proposals_are_those_of_whole_images_compared_pair_by_pair(data: st.DataObject) -> None:
    size = data.draw(st.tuples(st.integers(1, 60), st.integers(1, 60)))
    count, edge, step = data.draw(st.integers(0, 24)), data.draw(st.booleans()), data.draw(st.sampled_from([1, 0.01]))
    random = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    corners = np.sort(random.uniform(-0.5, 1.5, (6, 2, 2)), axis=1)  # of six things, of which each is found often
    corners[0] = corners[0, ::-1]  # wrong way round
    things = (corners * [size[1], size[0]]).reshape(6, 4)
    boxes = np.round((things[random.integers(6, size=count)] + random.normal(0, 1, (count, 4))) / step) * step
    # half of the masks are full, the others end and have holes where the probability is just the threshold
    masks = [np.maximum(random.integers(2), random.integers(5, size=random.integers(1, 29, 2)) / 4) for _ in boxes]
    found = detections(boxes.tolist(), random.integers(9, size=count).tolist(), list(range(count)))
    found.masks, found.edge = [m.astype(random.choice([np.float16, np.float32])) for m in masks], edge
    best, limit = data.draw(st.integers(1, 24)), data.draw(st.sampled_from([0.0, 1 / 3, 0.5, 0.8, 1.0]))
    order = np.argsort(-found.scores, kind="stable")
    pasted = [paste_plainly(found.masks[i], found.boxes[i], size, 0.5, edge) for i in order]
    overlap, kept = rle.iou_matrix(pasted, pasted), []
    for i in range(count):
        if len(kept) < best and rle.area(pasted[i]) > 0 and not any(overlap[i, k] > limit for k in kept):
            kept.append(i)
    chosen = select(found, size, SelectionConfig(max_instances=best, duplicate_iou=limit))
    assert chosen.rles == [pasted[i] for i in kept]
    assert chosen.boxes.tolist() == [rle.bbox(pasted[i]) for i in kept]
    assert chosen.scores.tolist() == found.scores[order[kept]].tolist()
    assert chosen.labels.tolist() == found.labels[order[kept]].tolist()
    assert (chosen.scores.dtype, chosen.labels.dtype, chosen.boxes.dtype) == (np.float32, np.int32, np.float32)


def detections(boxes: list[list[float]], scores: list[float], labels: list[int]) -> Detections:
    return Detections(
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        scores=np.array(scores, np.float32),
        labels=np.array(labels, np.int32),
        masks=np.ones((len(boxes), 14, 14), np.float32),
    )


def test_duplicates_go_whatever_their_class_and_the_best_stay() -> None:
    found = detections(
        [[5, 5, 25, 25], [5, 5, 25, 26], [30, 5, 45, 25], [90, 90, 99, 99]], [0.3, 0.8, 0.5, 0.9], [1, 2, 1, 1]
    )
    kept = select(found, (40, 50), SelectionConfig(max_instances=5))
    assert kept.scores.tolist() == pytest.approx([0.8, 0.5])  # the last one has no pixel in the image
    assert kept.labels.tolist() == [2, 1]
    assert kept.boxes.tolist() == [rle.bbox(r) for r in kept.rles]


def test_at_most_k_are_kept() -> None:
    found = detections([[i * 8, 0, i * 8 + 6, 9] for i in range(6)], [0.1, 0.6, 0.2, 0.9, 0.3, 0.4], [1] * 6)
    kept = select(found, (40, 50), SelectionConfig(max_instances=3))
    assert kept.scores.tolist() == pytest.approx([0.9, 0.6, 0.4])


def test_no_detection_gives_no_proposal() -> None:
    assert len(select(detections([], [], []), (4, 5), SelectionConfig())) == 0


def test_a_piece_of_a_map_reaches_to_the_sides_of_its_box() -> None:
    box, ones = np.array([0, 0, 50, 40], np.float32), np.full((4, 6), 0.7, np.float32)
    assert paste(ones, box, (40, 50), edge=True).area == 40 * 50
    assert paste(ones, box, (40, 50)).area < 40 * 50
    ones[:, 3:] = 0.0
    half = rle.decode(paste(ones.astype(np.float16), box, (40, 50), edge=True).encode((40, 50)))
    assert half[:, :20].all()
    assert not half[:, 30:].any()


@pytest.mark.parametrize("count", [0, 1, 3])
def test_detections_survive_the_way_to_another_process(count: int) -> None:
    random = np.random.default_rng(0)
    masks = [random.random((3 + i, 5), dtype=np.float32).astype(np.float16) for i in range(count)]
    found = detections([[i, 0, i + 6, 9] for i in range(count)], [0.5] * count, [7] * count)
    found.masks, found.edge = masks, True
    (row,) = pa.array([found.to_row()], DETECTED.field("detections").type).to_pylist()
    again = Detections.from_row(row)
    assert again.edge is True
    assert all(np.array_equal(getattr(again, k), getattr(found, k)) for k in ("boxes", "scores", "labels"))
    assert [m.shape for m in again.masks] == [m.shape for m in masks]
    assert all(np.array_equal(a, b) for a, b in zip(again.masks, masks, strict=True))
