"""Label Studio's requests and answers, in its true form, to photos, sentences and masks and back."""

import base64
import json

import numpy as np
import pytest

from mail import rle
from mail.answering import Answer
from mail.data.custom.brush import decode_brush
from pipelines.serving.label_studio import annotations
from pipelines.serving.label_studio.answering import prediction, simplified
from pipelines.serving.label_studio.asking import Asked, Asking
from pipelines.serving.label_studio.labelling import Labelling
from tests.own_formats import png
from tests.pipelines.serving.label_studio.requests import BRUSH, POLYGON, predict, task, webhook

HEIGHT, WIDTH = 60, 90
UPLOADED = "/data/upload/1/0123abcd-a.jpg"
PAINTED = np.zeros((HEIGHT, WIDTH), bool)
PAINTED[10:30, 20:50] = True
PAINTED[40:55, 60:80] = True
NOTHING = np.zeros((HEIGHT, WIDTH), bool)


def answer(text: str, mask: np.ndarray, score: float = 0.75) -> Answer:
    return Answer(text, rle.encode(mask), score, 0.1, [])


def test_a_label_config_says_where_things_are():
    own = Labelling.read(BRUSH)
    assert (own.image, own.photo, own.control, own.kind) == ("image", "image", "tag", "brushlabels")
    assert own.labels == ("box", "red box", "cup")
    assert own.spoken is None
    assert [own.label(t) for t in ("the RED box", "a cup on the boxes", "the left one")] == ["red box", "cup", "box"]
    other = Labelling.read(POLYGON)
    assert (other.photo, other.control, other.kind, other.spoken) == ("photo", "label", "polygonlabels", "words")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (None, "there is no label config"),
        ("<View>", "is no XML"),
        ('<!DOCTYPE a [<!ENTITY b "c">]><View/>', "document type"),
        ("<View><Text name='t' value='$text'/></View>", "shows no photo"),
        (BRUSH.replace('toName="image">', 'toName="other">'), "paints nothing"),
        (
            "<View><Image name='i' value='$i'/><BrushLabels name='b' toName='i'/></View>",
            "'b' of the label config has no",
        ),
    ],
)
def test_a_label_config_that_will_not_do_is_told(config: str | None, message: str):
    with pytest.raises(ValueError, match=message):
        Labelling.read(config)


def test_tasks_bring_their_photo_and_sentences():
    tasks = [
        task(1, image=UPLOADED, text="the red box"),
        task(2, image=UPLOADED),
        task(3, image="s3://bucket/a.jpg", caption=["a", "b"]),
        task(4, text="the red box"),
        task(5, image=UPLOADED, text={"a": 1}),
    ]
    asking = Asking.read(json.loads(json.dumps(predict(tasks))))
    assert not asking.interactive
    first, second, third, fourth, fifth = asking.tasks
    assert first == Asked(UPLOADED, ("the red box",), 1)
    assert second.texts == ()
    assert (third.photo, third.texts) == ("s3://bucket/a.jpg", ("a", "b"))
    assert fourth.trouble == "its data names no photo: image is where it would be"
    assert "text must be text" in fifth.trouble


def test_what_is_typed_just_now_goes_before_what_the_task_says():
    asking = Asking.read(predict([task(1, image=UPLOADED, text="the red box")], typed="the blue one"))
    assert asking.interactive
    assert asking.tasks[0].texts == ("the blue one",)


def test_an_answer_becomes_a_brush_region():
    found = prediction(Labelling.read(BRUSH), [answer("the red box", PAINTED)], "mail-ris 4")
    assert (found["score"], found["model_version"]) == (0.75, "mail-ris 4")
    (region,) = found["result"]
    value = region.pop("value")
    assert len(region.pop("id")) == 10
    assert region == {
        "from_name": "tag",
        "to_name": "image",
        "type": "brushlabels",
        "original_width": WIDTH,
        "original_height": HEIGHT,
        "image_rotation": 0,
        "score": 0.75,
    }
    assert (value["format"], value["brushlabels"]) == ("rle", ["red box"])
    np.testing.assert_array_equal(decode_brush(value["rle"], HEIGHT, WIDTH), PAINTED)
    assert prediction(Labelling.read(BRUSH), [answer("unicorn", NOTHING, 0)], "v")["result"] == []


def test_an_answer_becomes_polygons_with_few_corners_and_their_sentence():
    yy, xx = np.mgrid[:HEIGHT, :WIDTH]
    disc = (xx - 60) ** 2 + (yy - 30) ** 2 <= 20**2
    found = prediction(Labelling.read(POLYGON), [answer("a disc", disc), answer("both", PAINTED)], "v")["result"]
    assert [region["type"] for region in found] == [
        "polygonlabels",
        "textarea",
        "polygonlabels",
        "textarea",
        "polygonlabels",
    ]
    round_, words, larger, _, smaller = found
    assert words["id"] == round_["id"]
    assert words["value"] == {"text": ["a disc"]}
    assert words["from_name"] == "words"
    assert 8 <= len(round_["value"]["points"]) <= 28
    corners = np.array(larger["value"]["points"]) / 100 * [WIDTH, HEIGHT]
    assert np.abs(np.abs(corners - [35, 20]) - [15, 10]).max() <= 1
    assert len(smaller["value"]["points"]) <= 8


def test_what_is_left_of_a_line_lies_within_the_tolerance():
    turn = np.linspace(0, 2 * np.pi, 400, endpoint=False)
    ring = np.stack([np.cos(turn), np.sin(turn)], 1) * 100
    fewer = simplified(ring, 0.5)
    assert len(fewer) < 50
    ends = np.roll(fewer, -1, axis=0)
    middles = np.linalg.norm((fewer + ends) / 2, axis=1)
    assert middles.min() >= 100 - 0.51


def test_a_submitted_annotation_is_a_correction():
    of = task(9, image=UPLOADED, text="the red box")
    region = prediction(Labelling.read(BRUSH), [answer("the red box", PAINTED)], "v")["result"][0]
    body = webhook("ANNOTATION_CREATED", of, [region | {"origin": "prediction-changed"}])
    found = annotations.read(json.loads(json.dumps(body)))
    assert found is not None
    assert (found.photo, found.task) == (UPLOADED, 9)
    (thing,) = found.things
    assert [text for _, text in thing.texts] == ["the red box"]
    np.testing.assert_array_equal(rle.decode(annotations.mask_of(thing, (HEIGHT, WIDTH))), PAINTED)
    with pytest.raises(ValueError, match="painted on 90 x 60 pixels, and the photo has 60 x 90"):
        annotations.mask_of(thing, (WIDTH, HEIGHT))


def test_an_annotation_without_regions_says_that_nothing_is_meant():
    found = annotations.read(webhook("ANNOTATION_UPDATED", task(9, image=UPLOADED, text="a unicorn"), []))
    assert found is not None
    assert annotations.mask_of(found.things[0], (HEIGHT, WIDTH)) is None


def test_each_region_with_a_sentence_of_its_own_is_a_correction():
    regions = prediction(Labelling.read(POLYGON), [answer("a", PAINTED), answer("b", ~PAINTED)], "v")["result"]
    bitmask = {
        **regions[0],
        "id": "bits",
        "value": {"imageDataURL": "data:image/png;base64," + base64.b64encode(png(PAINTED)).decode()},
    }
    said = regions[1] | {"id": "bits", "value": {"text": ["c"]}}
    of = task(9, photo=UPLOADED)
    found = annotations.read(webhook("ANNOTATION_CREATED", of, [*regions, bitmask, said], POLYGON))
    assert found is not None
    things = {text: thing for thing in found.things for _, text in thing.texts}
    assert [*things] == ["a", "b", "c"]
    mask = rle.decode(annotations.mask_of(things["a"], (HEIGHT, WIDTH)))
    assert (mask & ~PAINTED).sum() < 60  # the outline cuts corners
    np.testing.assert_array_equal(rle.decode(annotations.mask_of(things["c"], (HEIGHT, WIDTH))), PAINTED)


def test_other_events_and_skipped_tasks_are_none():
    of = task(9, image=UPLOADED, text="a")
    assert annotations.read({"action": "ANNOTATIONS_DELETED", "annotations": [{"id": 7}]}) is None
    assert annotations.read({"action": "START_TRAINING", "project": {"id": 1}}) is None
    assert annotations.read(webhook("ANNOTATION_CREATED", of, [], was_cancelled=True)) is None
    with pytest.raises(ValueError, match="has to send its payload"):
        annotations.read({"action": "ANNOTATION_CREATED"})


def test_a_region_that_is_no_mask_is_told():
    sides = {"original_width": WIDTH, "original_height": HEIGHT}
    region = {"id": "r", "type": "brushlabels", **sides, "value": {"rle": ["a"]}}
    found = annotations.read(webhook("ANNOTATION_CREATED", task(9, image=UPLOADED, text="a"), [region]))
    assert found is not None
    with pytest.raises(ValueError, match="no list of bytes"):
        annotations.mask_of(found.things[0], (HEIGHT, WIDTH))
