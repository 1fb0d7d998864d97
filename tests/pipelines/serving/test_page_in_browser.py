"""The page in a real Chromium: photo, sentence, mask and correction, by pointer and keyboard, with a real network."""

import base64
import hashlib
import io
import json
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mail import rle
from mail.inference import Predictor, load_image
from mail.model import MailForReferringSegmentation, MailProcessor, tokenizer_from_texts
from mail.proposals import Proposals
from pipelines.serving.config import Limits, ServingConfig, digest_of
from pipelines.serving.refused import Refused
from tests.boxes import COLOURS, make_boxes, micro_config
from tests.browser import MISSING, browser, contrast, find_chromium, wait_until
from tests.pipelines.serving.local_service import Local, serving

pytestmark = [pytest.mark.cluster, pytest.mark.skipif(find_chromium() is None, reason=MISSING)]

HEIGHT, WIDTH = 48, 72
TOKEN = "a-token-of-the-service"
NASTY = "<img src=x onerror=\"document.title='taken'\">"


class ColourProposer:
    """Finds the boxes in red, green and blue: proposals 0, 1 and 2."""

    proposer_id, info = "colours", {}

    def propose(self, images: list[np.ndarray]) -> list[Proposals]:
        found = []
        for image in images:
            near = [np.abs(image.astype(int) - colour).max(-1) < 60 for colour in COLOURS.values()]
            masks = [rle.encode(mask) for mask in near]
            scores, labels = np.linspace(0.9, 0.5, len(masks), dtype=np.float32), np.ones(len(masks), np.int32)
            boxes = np.array([rle.bbox(m) for m in masks], np.float32)
            found.append(Proposals(image.shape[:2], scores, labels, boxes, masks))
        return found


def predictor(no_target: float) -> Predictor:
    """A small network with random weights, so sure that nothing is meant."""
    torch.manual_seed(0)
    tokenizer = tokenizer_from_texts(["the red box", "green one", "blue box on the left"])
    config = micro_config(vocab_size=len(tokenizer))
    network = MailForReferringSegmentation(config)
    torch.nn.init.constant_(network.decoder.no_target.bias, no_target)
    return Predictor(network, MailProcessor.for_config(tokenizer, config), ColourProposer(), "cpu")  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def photo() -> bytes:
    """Grey, with a box of each colour in a row."""
    pixels = np.random.default_rng(0).integers(110, 140, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    for slot, colour in enumerate(COLOURS.values()):
        pixels[16:32, 8 + 24 * slot : 24 + 24 * slot] = colour
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


@pytest.fixture(scope="module")
def finding() -> Predictor:
    return predictor(-4.0)


@pytest.fixture
def local(finding: Predictor) -> Local:
    return Local(finding)


@pytest.fixture
def config(tmp_path: Path) -> ServingConfig:
    return ServingConfig(
        model="a model",
        limits=Limits(bytes=2_000_000, pixels=4_000_000),
        corrections=str(tmp_path / "corrections"),
        cache_bytes=12_000,
    )


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser() as running:
        yield running


@dataclass
class Asked:
    """What the page has asked of the service."""

    requests: list[tuple[str, Any]] = field(default_factory=list)

    def bodies(self, path: str) -> list[dict[str, Any]]:
        return [body for url, body in self.requests if url.endswith(path)]


@pytest.fixture
def asked() -> Asked:
    return Asked()


@pytest.fixture
def tab(chromium: Any, config: ServingConfig, local: Local, asked: Asked) -> Iterator[Any]:
    """The page, from which nothing goes elsewhere, and which runs into no error of its own."""
    context = chromium.new_context(viewport={"width": 1400, "height": 900}, accept_downloads=True)
    tab, errors = context.new_page(), []
    tab.on("pageerror", lambda error: errors.append(str(error)))
    # an answer that is no 200 is logged by the browser itself
    tab.on("console", lambda m: errors.append(m.text) if m.type == "error" and "status of" not in m.text else None)
    tab.on("request", lambda r: asked.requests.append((r.url, json.loads(r.post_data) if r.post_data else None)))
    with serving(config, local) as address:
        tab.goto(address)
        yield tab
        context.close()
    assert errors == []
    assert {url for url, _ in asked.requests if not url.startswith((address, "data:", "blob:" + address))} == set()


def kept(config: ServingConfig) -> list[dict[str, Any]]:
    """The corrections on the disk."""
    return [json.loads(path.read_text()) for path in sorted(Path(str(config.corrections)).glob("*.jsonl"))]


def choose(tab: Any, photo: bytes) -> None:
    tab.set_input_files("#file", {"name": "boxes.png", "mimeType": "image/png", "buffer": photo})
    tab.wait_for_selector("#shown:not([hidden])")


def ask(tab: Any, text: str) -> None:
    """Types a sentence and waits for what the model says of it."""
    before = tab.locator(".sentence").count()
    tab.fill("#text", text)
    tab.keyboard.press("Enter")
    wait_until(tab, f"document.querySelectorAll('.sentence.answered').length === {before + 1}")


def on_canvas(tab: Any) -> np.ndarray:
    """What is drawn over the middle of each of the photo's pixels, uint8 (H, W, 4)."""
    data = tab.evaluate(
        """([height, width]) => {
          const canvas = document.getElementById("masks"), found = [];
          const {data} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
          for (let y = 0; y < height; y++) for (let x = 0; x < width; x++) {
            const row = Math.floor((y + .5) * canvas.height / height);
            const at = 4 * (row * canvas.width + Math.floor((x + .5) * canvas.width / width));
            found.push(...data.slice(at, at + 4));
          }
          return found;
        }""",
        [HEIGHT, WIDTH],
    )
    return np.array(data, np.uint8).reshape(HEIGHT, WIDTH, 4)


def box_at(tab: Any, slot: int) -> tuple[float, float]:
    """Where in the window the middle of a box of the photo is."""
    place = tab.locator("#masks").bounding_box()
    return place["x"] + place["width"] * (16 + 24 * slot) / WIDTH, place["y"] + place["height"] * 24 / HEIGHT


def box(slot: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[16:32, 8 + 24 * slot : 24 + 24 * slot] = True
    return mask


def colours(drawn: np.ndarray, where: np.ndarray) -> set[tuple[int, ...]]:
    """Which of red, green and blue is greatest in the pixels there."""
    return set(drawn[where][:, :3].argmax(-1).tolist())


def test_the_mask_on_the_photo_is_the_answers(tab: Any, finding: Predictor, photo: bytes):
    choose(tab, photo)
    ask(tab, "the red box")
    answer, pixels = finding.predict(photo, "the red box")[0], load_image(photo)
    assert 0 < answer.mask.mean() < 1
    np.testing.assert_array_equal(on_canvas(tab)[..., 3] > 0, answer.mask)
    assert f"score {answer.score:.2f}" in tab.text_content(".sentence .figures")
    assert "“the red box”: score" in tab.text_content("#said")
    with tab.expect_download() as saved:
        tab.click("#save-mask")
    assert saved.value.suggested_filename == "boxes-the-red-box-mask.png"
    picture = np.array(Image.open(saved.value.path()).convert("L"))
    np.testing.assert_array_equal(picture, answer.mask * np.uint8(255))
    with tab.expect_download() as saved:
        tab.click("#save-overlay")
    overlay = np.array(Image.open(saved.value.path()).convert("RGB"))
    changed = np.abs(overlay.astype(int) - pixels).max(-1) > 1
    assert not changed[~answer.mask].any()
    assert changed[answer.mask].mean() > 0.9


def test_a_photo_is_sent_once_and_sentences_stay_a_list(tab: Any, asked: Asked, photo: bytes):
    choose(tab, photo)
    for text in ("the red box", "green one", "blue box"):
        ask(tab, text)
    first, *others = asked.bodies("/v1/segment")
    assert base64.b64decode(first["image"]["base64"]) == photo
    assert [list(body["image"]) for body in others] == [["sha256"]] * 2
    assert [body["proposals"] for body in (first, *others)] == [True, False, False]
    tab.click("[aria-label='Remove: green one']")
    assert tab.locator(".words").all_text_contents() == ["the red box", "blue box"]
    tab.click(".sentence:nth-child(1) .pick")
    assert tab.get_attribute(".sentence:nth-child(1) .pick", "aria-current") == "true"


def test_a_photo_that_is_not_kept_any_more_is_sent_again(tab: Any, asked: Asked, config: ServingConfig, photo: bytes):
    choose(tab, photo)
    ask(tab, "the red box")
    other = np.random.default_rng(1).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(other).save(out, "PNG")
    sent = {"image": {"base64": base64.b64encode(out.getvalue()).decode()}, "prompts": [{"text": "green one"}]}
    assert tab.request.post(tab.url + "v1/segment", data=sent).ok  # of somebody else, and there is place for one photo
    ask(tab, "green one")
    assert [next(iter(body["image"])) for body in asked.bodies("/v1/segment")] == ["base64", "sha256", "base64"]


def test_pointing_shows_a_proposal_and_clicks_make_the_correction(
    tab: Any, asked: Asked, config: ServingConfig, local: Local, photo: bytes
):
    choose(tab, photo)
    ask(tab, "the red box")
    answer = on_canvas(tab)
    tab.mouse.move(*box_at(tab, 1))
    pointed = on_canvas(tab)
    assert (pointed[box(1)][:, 3] > answer[box(1)][:, 3]).all()
    assert tab.locator(".proposals .pointed").text_content() == "2"
    tab.mouse.click(*box_at(tab, 1))  # this one
    tab.mouse.click(*box_at(tab, 2))  # together with that one
    tab.mouse.move(5, 5)
    chosen = on_canvas(tab)
    np.testing.assert_array_equal(chosen[..., 3] > 0, box(1) | box(2))
    assert colours(chosen, box(1) | box(2)) == {2}  # blue: what is said to be true
    tab.click("#send")
    wait_until(tab, "document.getElementById('kept').textContent !== ''")
    (body,) = asked.bodies("/v1/corrections")
    digest = hashlib.sha256(photo).hexdigest()
    meant = {"text": "the red box", "proposals": [1, 2], "model": local.model["digest"]}
    assert body == {"image": {"sha256": digest}, **meant}
    (row,) = kept(config)
    np.testing.assert_array_equal(rle.decode(row["rle"] | {"counts": row["rle"]["counts"].encode()}), box(1) | box(2))
    assert Path(str(config.corrections), row["image"]).read_bytes() == photo
    assert (row["text"], row["model"]["version"]) == ("the red box", "4")
    assert "corrected" in tab.text_content(".sentence .figures")
    tab.mouse.click(*box_at(tab, 1))  # a second click takes it away
    assert tab.locator(".proposals [aria-pressed=true]").all_text_contents() == ["3"]
    tab.click("#none")
    assert not on_canvas(tab)[..., 3].any()
    tab.click("#send")
    wait_until(tab, "document.getElementById('kept').textContent !== ''")
    (row,) = kept(config)  # in the place of the other
    assert row["no_target"] is True


def test_everything_is_done_from_the_keyboard(tab: Any, asked: Asked, photo: bytes):
    tab.on("filechooser", lambda _: None)  # choosers are caught from here on, and surely by the time of the key
    wait_until(tab, "document.getElementById('limits').textContent !== ''")
    tab.keyboard.press("Tab")
    wait_until(tab, "document.activeElement.id === 'choose'")
    with tab.expect_file_chooser() as chooser:
        tab.keyboard.press("Enter")
    chooser.value.set_files({"name": "boxes.png", "mimeType": "image/png", "buffer": photo})
    wait_until(tab, "document.activeElement.id === 'text'")
    tab.keyboard.type("the red box")
    tab.keyboard.press("Enter")
    tab.wait_for_selector(".sentence.answered")
    for before in ("another", "save-overlay", "save-mask", "stage"):
        tab.keyboard.press("Shift+Tab")
        assert tab.evaluate("document.activeElement.id") == before
    for key in ("ArrowRight", "Enter", "ArrowLeft"):
        tab.keyboard.press(key)
    assert tab.text_content("#said").startswith("Proposal 3 of 3, score 0.50")
    tab.keyboard.press("Enter")
    assert tab.text_content("#said") == "Chosen: proposal 1 and 3."
    tab.focus("#send")
    tab.keyboard.press("Enter")
    wait_until(tab, "document.getElementById('kept').textContent !== ''")
    assert asked.bodies("/v1/corrections")[0]["proposals"] == [0, 2]
    tab.focus(".proposals button[tabindex='0']")
    tab.keyboard.press("End")
    tab.keyboard.press("Space")
    assert tab.locator(".proposals [aria-pressed=true]").all_text_contents() == ["1"]
    tab.keyboard.press("Escape")
    assert tab.is_disabled("#send")


def test_shift_adds_to_what_the_answer_is_made_of(tab: Any, photo: bytes):
    choose(tab, photo)
    ask(tab, "the red box")
    tab.mouse.click(*box_at(tab, 0))  # whatever an untrained network chose
    assert tab.locator(".proposals [aria-pressed=true]").all_text_contents() == ["1"]
    tab.keyboard.down("Shift")
    tab.mouse.click(*box_at(tab, 2))
    tab.keyboard.up("Shift")
    assert tab.locator(".proposals [aria-pressed=true]").all_text_contents() == ["1", "3"]


def test_another_model_finds_other_proposals_so_a_choice_is_made_anew(
    tab: Any, asked: Asked, config: ServingConfig, local: Local, photo: bytes
):
    choose(tab, photo)
    ask(tab, "the red box")
    tab.mouse.click(*box_at(tab, 1))
    local.promote(predictor(4.0))
    tab.click("#send")
    wait_until(tab, "document.getElementById('said').textContent.startsWith('Another model')")
    assert kept(config) == []
    assert [body["proposals"] for body in asked.bodies("/v1/segment")] == [True, False, True]
    assert tab.text_content(".sentence .figures").startswith("nothing found · names nothing 9")
    assert not on_canvas(tab)[..., 3].any()


def test_words_stay_words(tab: Any, local: Local, photo: bytes):
    local.refusals.append(Refused(422, "bad_text", NASTY))
    choose(tab, photo)
    tab.fill("#text", NASTY)
    tab.keyboard.press("Enter")
    tab.wait_for_selector(".sentence.failed")
    assert tab.text_content("#wrong") == NASTY
    tab.click(".sentence .again")
    tab.wait_for_selector(".sentence.answered")
    assert tab.text_content(".sentence .words") == NASTY
    assert tab.locator("main img:not(.examples img)").count() == 0
    assert tab.title() == "Type a sentence, see the mask"


def test_the_token_is_asked_for_once_and_kept_for_the_tab(chromium: Any, local: Local, tmp_path: Path):
    store = make_boxes(tmp_path, images=8).store_uri
    with serving(ServingConfig(model="a model", token=digest_of(TOKEN), examples=store), local) as address:
        tab = chromium.new_page()
        tab.goto(address)
        for token in ("wrong", TOKEN):
            tab.wait_for_selector("#token[open]")
            tab.fill("#token-text", token)
            tab.keyboard.press("Enter")
            wait_until(
                tab, "!document.getElementById('token').open || document.getElementById('token-text').value === ''"
            )
        tab.wait_for_selector("#token:not([open])", state="attached")
        tab.wait_for_selector(".examples img")  # which an <img src> could not have fetched
        tab.reload()
        tab.click(".examples button")
        tab.wait_for_selector(".sentence.answered")
        assert tab.text_content(".sentence .words") == "the red box"
        assert not tab.evaluate("document.getElementById('token').open")
        assert tab.text_content("#kept").startswith("This service keeps no corrections")
        tab.close()


def test_what_cannot_be_is_said(tab: Any, asked: Asked, local: Local, photo: bytes):
    tab.click("#ask button")
    assert tab.text_content("#wrong") == "Choose a photo first."
    tab.set_input_files("#file", {"name": "a.jpg", "mimeType": "image/jpeg", "buffer": b"no picture"})
    wait_until(tab, "document.getElementById('wrong').textContent.startsWith('a.jpg is no picture')")
    large = io.BytesIO()
    Image.new("L", (2500, 2000)).save(large, "PNG")
    tab.set_input_files("#file", {"name": "b.png", "mimeType": "image/png", "buffer": large.getvalue()})
    wait_until(tab, "document.getElementById('wrong').textContent.includes('up to 4 million pixels')")
    local.refusals += [Refused(429, "busy", "too many wait", 0), Refused(503, "not_loaded", "no model is loaded")]
    choose(tab, photo)
    tab.fill("#text", "the red box")
    tab.keyboard.press("Enter")
    wait_until(tab, "document.getElementById('wrong').textContent === 'no model is loaded'")
    assert len(asked.bodies("/v1/segment")) == 2  # the first one was told to come again, and came


def test_a_photo_is_dropped_or_pasted(tab: Any, photo: bytes):
    for event in ("drop", "paste"):
        tab.evaluate(
            """([event, data]) => {
              const bytes = Uint8Array.from(atob(data), c => c.charCodeAt(0));
              const files = new DataTransfer();
              files.items.add(new File([bytes], event + ".png", {type: "image/png"}));
              const made = event === "drop" ? new DragEvent("drop", {dataTransfer: files, cancelable: true})
                : new ClipboardEvent("paste", {clipboardData: files});
              window.dispatchEvent(made);
            }""",
            [event, base64.b64encode(photo).decode()],
        )
        wait_until(tab, f"document.getElementById('name').textContent === '{event}.png · 72\u00a0×\u00a048'")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_can_be_read_and_a_narrow_screen_scrolls_down_only(tab: Any, photo: bytes, scheme: str):
    tab.emulate_media(color_scheme=scheme)
    tab.set_viewport_size({"width": 390, "height": 800})
    choose(tab, photo)
    ask(tab, "the red box " * 8)
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    shown = [".facts", ".sentence .words", ".sentence .figures", "#said", "#keys", ".line .primary", "#none", ".name"]
    for selector in shown:
        assert contrast(tab, selector)[0] >= 4.5, selector
    assert (contrast(tab, ".facts")[1] < 0.2) == (scheme == "dark")


def test_the_page_is_in_the_wheel(repository: Path):
    kinds = tomllib.loads((repository / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["*"]
    assert {f"*{path.suffix}" for path in (repository / "pipelines/serving/page").iterdir()} <= set(kinds)
