"""The gallery in a real Chromium: what is drawn, filtered, toggled and enlarged; in light and dark, from disk."""

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mail import rle
from mail.report.gallery import GalleryAnswer, GalleryEntry, GalleryImage, write_gallery
from tests.browser import MISSING, browser, contrast, find_chromium, open_page, wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.skipif(find_chromium() is None, reason=MISSING)]

HEIGHT, WIDTH = 120, 160
NASTY = "</script><script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">"
EXPRESSIONS = 60


def square(top: int, left: int, side: int = 40) -> rle.RLE:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[top : top + side, left : left + side] = True
    return rle.encode(mask)


TARGET, FOUND, MISSED, PROPOSED = square(10, 10), square(10, 10), square(70, 100), square(60, 20)
BEST = square(20, 20, 20)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models: the first one finds every target but every third, the second one none; grey pictures."""
    buffer = io.BytesIO()
    Image.new("RGB", (WIDTH, HEIGHT), (128, 128, 128)).save(buffer, "JPEG", quality=95)
    picture = GalleryImage(HEIGHT, WIDTH, base64.b64encode(buffer.getvalue()).decode())
    entries = []
    for number in range(EXPRESSIONS):
        good = number % 3 != 0
        notes = ["best proposal 0.444", "chosen 0.000"]
        ours = GalleryAnswer(FOUND if good else MISSED, 1.0 if good else 0.0, 0.9, [PROPOSED], BEST, notes)
        theirs = GalleryAnswer(MISSED if number else None, 0.0, 0.1)
        text = NASTY if number == 7 else f"{'left' if number % 2 else 'red'} thing {number}"
        slices = {"words": "3-5", "kind of words": "place" if number % 2 else "attribute"}
        entries.append(GalleryEntry(f"d/{number}", f"i/{number}", text, TARGET, [ours, theirs], slices))
    path = tmp_path_factory.mktemp("gallery") / "gallery.html"
    images = {e.image_id: picture for e in entries}
    facts, figures = ["protocol original"], [["", "oIoU"], ["ours", "66.67"], ["theirs", "0.00"]]
    write_gallery(
        path, title="val", models=["ours", "theirs"], images=images, entries=entries, facts=facts, figures=figures
    )
    return path


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser() as running:
        yield running


@pytest.fixture
def tab(chromium: Any) -> Iterator[Any]:
    """A page that may make no request but for the file itself, and log no error."""
    context = chromium.new_context(viewport={"width": 1400, "height": 900})
    tab, errors, requests = context.new_page(), [], []
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    tab.on("request", lambda request: requests.append(request.url))
    yield tab
    context.close()
    assert errors == []
    assert {url.partition(":")[0] for url in requests} <= {"file", "data"}


def pixels(tab: Any, canvas: int = 0, where: str = ".card") -> np.ndarray:
    """What a canvas of the first card shows, sampled at the image's own resolution, uint8 (H, W, 3)."""
    data = tab.evaluate(
        """([where, number, height, width]) => {
          const canvas = document.querySelectorAll(where + " canvas")[number];
          const {data} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height), found = [];
          for (let y = 0; y < height; y++) for (let x = 0; x < width; x++) {
            const row = Math.floor((y + .5) * canvas.height / height);
            const at = 4 * (row * canvas.width + Math.floor((x + .5) * canvas.width / width));
            found.push(data[at], data[at + 1], data[at + 2]);
          }
          return found;
        }""",
        [where, canvas, HEIGHT, WIDTH],
    )
    return np.array(data, np.uint8).reshape(HEIGHT, WIDTH, 3)


def painted(picture: np.ndarray) -> np.ndarray:
    """Where it is not the grey of the photo (away from the masks' edges, which the screen's scale blurs)."""
    return np.abs(picture.astype(int) - 128).max(axis=-1) > 8


def redrawn(tab: Any, before: np.ndarray, canvas: int = 0, where: str = ".card") -> np.ndarray:
    for _ in range(50):
        tab.wait_for_timeout(20)
        if not np.array_equal(now := pixels(tab, canvas, where), before):
            return now
    raise AssertionError("nothing was drawn anew")


def count(tab: Any) -> int:
    return int(tab.text_content("#count").split()[0])


def test_masks_are_drawn_where_they_are_and_toggles_take_them_away(tab: Any, page: Path):
    open_page(tab, page, "order=store&search=d/1")  # found by the first model, missed by the second
    both = pixels(tab, 1)
    assert np.array_equal(painted(both)[15:45, 15:45], np.zeros((30, 30), bool))  # of the target only the outline
    assert painted(both)[10, 20:40].all()
    assert painted(both)[75:105, 105:135].all()  # the prediction is filled
    tab.uncheck("#show-target")
    prediction = redrawn(tab, both, 1)
    assert np.array_equal(painted(prediction), rle.decode(MISSED))
    ours = pixels(tab, 0)
    tab.check("#show-proposals")
    with_proposals = redrawn(tab, ours, 0)
    assert np.array_equal(painted(with_proposals), rle.decode(FOUND) | rle.decode(PROPOSED))
    tab.uncheck("#show-prediction")
    only_chosen = redrawn(tab, with_proposals, 0)
    assert np.array_equal(painted(only_chosen), rle.decode(PROPOSED))
    tab.check("#show-best")
    best = painted(redrawn(tab, only_chosen, 0)) & ~rle.decode(PROPOSED)
    assert best[20, 22:38].all()  # an outline
    assert not best[24:36, 24:36].any()


def test_filters_leave_what_fits(tab: Any, page: Path):
    open_page(tab, page)
    assert count(tab) == EXPRESSIONS
    tab.select_option("#slice-1", label="place (30)")
    assert count(tab) == 30
    tab.fill("#high", "0.5")
    tab.dispatch_event("#high", "change")
    assert count(tab) == 10
    tab.fill("#search", "LEFT 9")
    wait_until(tab, "document.getElementById('count').textContent.startsWith('2 ')")
    assert sorted(tab.locator(".card .words").all_text_contents()) == ["left thing 39", "left thing 9"]
    tab.fill("#search", "zebra")
    tab.wait_for_selector(".none")


def test_two_models_stand_side_by_side_each_with_its_figure(tab: Any, page: Path):
    open_page(tab, page, "order=gained")
    card = tab.locator(".card").first
    assert card.locator("canvas").count() == 2
    assert card.locator(".scores > span").all_text_contents() == [
        "ours IoU 1.000 best proposal 0.444, chosen 0.000",
        "theirs IoU 0.000 ",
    ]
    left, right = (card.locator("canvas").nth(n).bounding_box()["x"] for n in (0, 1))
    under = [card.locator(".scores > span").nth(n).bounding_box()["x"] for n in (0, 1)]
    assert [abs(a - b) < 3 for a, b in zip((left, right), under, strict=True)] == [True, True]
    assert tab.locator("#figures tr").count() == 3


def test_an_expression_is_enlarged_with_toggles_of_its_own(tab: Any, page: Path):
    open_page(tab, page, "order=store")
    tab.locator(".card").nth(1).click()
    assert tab.text_content("#large-words") == "left thing 1"
    assert "kind of words: place" in tab.text_content("#large-notes")
    wait_until(tab, "document.querySelectorAll('#large-pictures canvas')[1].height > 700")  # 300 x 150 until drawn
    before = pixels(tab, 1, "#large-pictures")
    tab.locator("#large-layers input").nth(0).uncheck()
    assert np.array_equal(painted(redrawn(tab, before, 1, "#large-pictures")), rle.decode(MISSED))
    assert not tab.is_checked("#show-target")
    tab.keyboard.press("ArrowLeft")
    assert tab.text_content("#large-words") == "red thing 0"
    tab.keyboard.press("Escape")
    assert not tab.evaluate("document.getElementById('large').open")


def test_the_address_carries_a_view(tab: Any, page: Path):
    open_page(tab, page, "order=worst&low=0&high=0.2&open=d/3")
    assert tab.input_value("#order") == "worst"
    assert count(tab) == 20
    assert tab.text_content("#large-words") == "left thing 3"


def test_other_peoples_words_stay_words(tab: Any, page: Path):
    open_page(tab, page, "order=store&search=script")
    assert tab.locator(".card .words").all_text_contents() == [NASTY]
    assert tab.title() == "val"
    assert tab.locator("img").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_can_be_read_in_light_and_dark(tab: Any, page: Path, scheme: str):
    tab.emulate_media(color_scheme=scheme)
    open_page(tab, page)
    for selector in ("h1", ".facts", ".card .words", ".card .notes", ".iou.good", ".iou.poor", ".bar label"):
        ratio, ground = contrast(tab, selector)
        assert ratio >= 4.5, selector
        assert (ground < 0.2) == (scheme == "dark")


def test_tall_pictures_are_not_cut_and_a_narrow_screen_scrolls_down_only(tab: Any, page: Path):
    tab.set_viewport_size({"width": 390, "height": 800})
    open_page(tab, page)
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    canvas, frame = (tab.locator(s).first.bounding_box() for s in (".card canvas", ".card .pictures > div"))
    assert abs(canvas["height"] - frame["height"]) < 1


def test_cards_come_as_one_scrolls(tab: Any, page: Path):
    open_page(tab, page)
    before = tab.locator(".card").count()
    assert before < EXPRESSIONS
    tab.mouse.wheel(0, 20_000)
    wait_until(tab, f"document.querySelectorAll('.card').length === {EXPRESSIONS}")
