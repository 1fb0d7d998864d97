"""The gallery page: self-contained, safe with other people's words, within its size."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from mail import rle
from mail.report.gallery import GalleryAnswer, GalleryEntry, GalleryImage, thumbnail_side, write_gallery

MASK = np.zeros((30, 40), bool)
MASK[5:20, 5:30] = True
NASTY = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&\u2028"


def entries(count: int, text: str = "the cup") -> list[GalleryEntry]:
    target = rle.encode(MASK)
    return [
        GalleryEntry(
            f"d/{n}", f"i/{n // 3}", text, target, [GalleryAnswer(target, n / count, 0.5, [target])], {"words": "1-2"}
        )
        for n in range(count)
    ]


def write(path: Path, shown: list[GalleryEntry], jpeg: str = "QUJD", **options: object) -> tuple[int, str]:
    images = {e.image_id: GalleryImage(30, 40, jpeg) for e in shown}
    options = {"title": "val", "models": ["tiny"], **options}
    number = write_gallery(path, images=images, entries=shown, **options)  # type: ignore[arg-type]
    return number, path.read_text()


def data_of(page: str) -> dict:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found
    return json.loads(found[1])


def test_other_peoples_words_cannot_leave_the_data(tmp_path: Path):
    _, page = write(tmp_path / "g.html", entries(1, NASTY), title=NASTY, facts=[NASTY], models=[NASTY])
    assert "<script>alert" not in page
    assert "<img" not in page
    assert page.count("</script>") == 2  # the data's own end and the program's
    assert data_of(page)["entries"][0]["text"] == NASTY
    assert "innerHTML =" not in page


def test_the_page_needs_nothing_from_outside(tmp_path: Path):
    _, page = write(tmp_path / "g.html", entries(2))
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//""", page)
    assert "default-src 'none'" in page


def test_images_and_equal_masks_are_there_once(tmp_path: Path):
    _, page = write(tmp_path / "g.html", entries(9))
    data = data_of(page)
    assert len(data["images"]) == 3
    assert len(data["masks"]) == 1
    assert [e["target"] for e in data["entries"]] == [0] * 9


def test_empty_masks_are_none(tmp_path: Path):
    shown = [GalleryEntry("d/0", "i/0", "unicorn", rle.empty(30, 40), [GalleryAnswer(None, 1.0)])]
    entry = data_of(write(tmp_path / "g.html", shown)[1])["entries"][0]
    assert (entry["target"], entry["answers"][0]["mask"]) == (-1, -1)


def test_a_page_that_would_be_too_large_shows_worst_best_and_random_and_says_so(tmp_path: Path):
    shown = entries(300)
    number, page = write(tmp_path / "g.html", shown, jpeg="A" * 4000, max_bytes=200_000)
    assert 10 < number < 100
    assert len(page) < 200_000 + 40_000
    ious = [e["answers"][0]["iou"] for e in data_of(page)["entries"]]
    assert min(ious) == 0
    assert max(ious) == pytest.approx(299 / 300, abs=1e-4)
    assert f"shows {number} of 300 expressions" in data_of(page)["facts"][-1]


def test_more_images_get_smaller_pictures():
    sides = [thumbnail_side(n) for n in (10, 500, 1500, 4000, 20000)]
    assert sides == sorted(sides, reverse=True)
