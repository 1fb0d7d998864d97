"""What weights saw: read, joined and compared by value; what an earlier version wrote is read."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from mail.data.image_keys import keys_of
from mail.data.image_lists import origin_of, read_images
from mail.data.origins import NOTHING, UNKNOWN, Collection, Origin, describe
from mail.data.published_origins import origin_of_checkpoint, origin_of_encoder, origin_of_file
from mail.errors import UserError

CONTENT = ("a" * 64, "blake3:" + "b" * 64, 7)
IMAGES = keys_of([("coco/9", *CONTENT), "coco/30", ("own/1", *CONTENT), "own/2", "cocoa/9"])


def among(origin: Origin, images: pa.Table = IMAGES) -> list[str]:
    return origin.among(images)["image_id"].to_pylist()


@pytest.mark.parametrize(
    ("content", "seen"),
    [
        ([], []),
        (["coco/30", ["x/1", *CONTENT]], ["coco/9", "coco/30", "own/1"]),
        (
            {"images": [], "collections": [{"name": "coco/train2017", "but": ["coco/30"]}]}
            | {"without_masks": ["imagenet-1k"], "unknown": False},
            ["coco/9"],
        ),
        (
            {"images": ["own/2"], "collections": [{"name": "own/*", "but": []}], "without_masks": [], "unknown": True},
            ["own/1", "own/2"],
        ),
        (None, []),
    ],
)
def test_an_origin_is_the_same_after_json(content: Any, seen: list[str]) -> None:
    origin = Origin.from_json(content)
    assert origin.to_json() == content
    assert Origin.from_json(json.loads(json.dumps(origin.to_json()))) == origin
    assert among(origin) == seen
    assert origin.unknown == (content is None or "own/2" in str(content))


@pytest.mark.parametrize("broken", [7, {}, {"images": []}, [["a", 1]], {"images": 1, "collections": [], "x": 0}])
def test_what_is_no_origin_is_refused(broken: Any) -> None:
    with pytest.raises(ValueError, match="it is no origin of weights"):
        Origin.from_json(broken)


def test_whoever_saw_both_saw_the_images_of_both() -> None:
    first = Origin.of(["own/2"], [Collection("coco/train2017", frozenset({"coco/9", "coco/30"}))])
    second = Origin.of(["own/2", "own/3"], [Collection("coco/train2017", frozenset({"coco/9"}))], ["imagenet-1k"])
    both = first | second
    assert (both.image_ids, among(both)) == (["own/2", "own/3"], ["coco/30", "own/2"])
    assert both == second | first
    assert not both.unknown
    assert (both | UNKNOWN).unknown
    assert (NOTHING | both) == both


def test_a_photo_of_a_collection_is_known_by_its_content_where_that_is_listed() -> None:
    coco = Origin.of(collections=["coco/train2017"])
    assert among(coco) == ["coco/9", "coco/30"]
    assert among(coco | Origin.of([("coco/9", *CONTENT)])) == ["coco/9", "coco/30", "own/1"]
    assert among(coco.knowing(IMAGES)) == ["coco/9", "coco/30", "own/1"]


def test_digests_of_lists_are_those_of_earlier_versions_and_tell_collections_apart() -> None:
    listed = hashlib.sha256(b"coco/25\ncoco/9").hexdigest()
    assert Origin.of(["coco/9", "coco/25", "coco/9"]).summary == {"count": 2, "digest": listed}
    origins = [NOTHING, UNKNOWN, *(Origin.of((), [name]) for name in ("coco/train2017", "coco/train2014"))]
    origins += [Origin.of((), [Collection("coco/train2017", frozenset({"coco/9"}))])]
    assert len({origin.digest for origin in origins}) == len(origins)


def test_a_line_says_what_was_seen() -> None:
    coco = Origin.of(["own/1"], [Collection("coco/train2017", frozenset({"coco/9"}))], ["imagenet-1k"])
    assert str(coco) == "coco/train2017 but 1 images, 1 listed images; without masks: imagenet-1k"
    assert describe(coco.summary) == str(coco)
    assert str(UNKNOWN) == describe(UNKNOWN.summary) == "nobody knows what"
    assert str(UNKNOWN | Origin.of(["own/1"])) == "1 listed images, nobody knows what else"
    assert str(NOTHING) == "nothing"


def test_published_weights_carry_theirs() -> None:
    name, origin = origin_of_file("73cbd019" + "0" * 56) or ("", UNKNOWN)
    assert (name, str(origin)) == ("maskrcnn_resnet50_fpn_v2 COCO_V1", "coco/train2017; without masks: imagenet-1k")
    assert origin_of_file("0" * 64) is None
    hub = "models--facebook--mask2former-swin-base-IN21k-coco-panoptic/snapshots/0a1"
    name, origin = origin_of_checkpoint(hub) or ("", UNKNOWN)
    assert (name, [str(c) for c in origin.collections]) == (
        "mask2former-swin-base-IN21k-coco-panoptic",
        ["coco/train2017"],
    )
    for other in ("weights/mask2former", f"{name}/own", f"{name}-own"):
        assert origin_of_checkpoint(other) is None
    vilt = origin_of_encoder("dandelin/vilt-b32-mlm")
    assert str(vilt) == ("without masks: coco/train2014, visual-genome, sbu-captions, conceptual-captions")
    assert (among(vilt), vilt.unknown) == ([], False)
    web, indomain = (origin_of_encoder(f"/data/beit3_base{kind}_patch16_224.pth") for kind in ("", "_indomain"))
    assert "laion-400m" in str(web)
    assert "coco/train2014" not in str(web)
    assert "coco/train2014, visual-genome" in str(indomain)
    assert "laion" not in str(origin_of_encoder("beit3_base_patch16_384_coco_retrieval.pth"))


def test_what_a_person_names(tmp_path: Path) -> None:
    (tmp_path / "val2017.json").write_text(json.dumps({"images": [{"id": 139}, {"id": "30"}], "annotations": []}))
    (tmp_path / "ids").write_text("noise/7\n12\n")
    but = str(tmp_path / "val2017.json")
    origin = origin_of(("coco/train2017", str(tmp_path / "ids")), but, "coco")
    assert origin.collections == (Collection("coco/train2017", frozenset({"coco/139", "coco/30"})),)
    assert origin.image_ids == ["coco/12", "noise/7"]
    assert among(origin) == ["coco/9"]
    with pytest.raises(UserError, match="that goes with a collection only"):
        origin_of((str(tmp_path / "ids"),), but, "coco")
    with pytest.raises(UserError, match=r"no file .*coco/train2107: .* the name of a collection \(coco/train2017, "):
        origin_of(("coco/train2107",), None, "coco")
    (tmp_path / "images.json").write_text(json.dumps(origin.to_json()))
    assert origin_of((str(tmp_path / "images.json"),), None, "coco") == origin
    with pytest.raises(UserError, match="is no list of images, but says: coco/train2017 but 2 images"):
        read_images(str(tmp_path / "images.json"), "coco")
