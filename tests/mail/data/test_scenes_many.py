"""Scenes whose sentences name several objects or none: in gRefCOCO's form, and saying what they say for certain."""

import hashlib
import json
import math
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from mail import rle
from mail.data.refer import find_layout, read_refs, write_store
from mail.data.scenes import SceneConfig, generate_scene, write_published_layout
from mail.data.scenes.groups import SEVERAL_OR_NONE, All, Nothing, Two, named
from mail.data.scenes.layout import refs_name
from mail.data.scenes.meaning import Meaning, Place, Rank, Relation, SceneObject
from mail.data.scenes.scene import SPLITS, Scene
from mail.data.scenes.shapes import ANGULAR, ROUND
from mail.data.scenes.textures import COLOURS
from mail.data.segmentation import checked_mask
from mail.data.sets import DATA_SETS
from mail.data.store import DataStore

MANY = SceneConfig(targets="many")


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [generate_scene(7, index, MANY) for index in range(300)]


@pytest.fixture(scope="module")
def said(scenes):
    """Every sentence as (scene, indices of what is named, sentence)."""
    return [(s, r.targets, sentence) for s in scenes for r in s.references for sentence in r.sentences]


@pytest.fixture(scope="module")
def layout(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("scenes")
    write_published_layout(root, images=24, seed=3, config=MANY)
    return root


@pytest.fixture(scope="module")
def refs(layout):
    return json.loads((layout / "synthetic" / "grefs(synthetic).json").read_text())


@pytest.fixture(scope="module")
def store(layout, tmp_path_factory) -> DataStore:
    found = find_layout(layout, "synthetic", "synthetic", name="many", refs_name=refs_name(MANY))
    return write_store(found, read_refs(found.refs), str(tmp_path_factory.mktemp("store") / "many"))[0]


# --- the files ---------------------------------------------------------------------------------------------------


def test_scenes_whose_sentences_name_one_object_are_what_they_were(tmp_path):
    """Digests of what was written before there were others; not of the photos, which each version of Pillow packs
    as it does."""
    write_published_layout(tmp_path, images=20, seed=3)
    digests = {p.name: hashlib.sha256(p.read_bytes()).hexdigest()[:16] for p in (tmp_path / "synthetic").iterdir()}
    assert digests == {"refs(synthetic).p": "dddcfa7cc9ff2240", "instances.json": "c091f06ed074a18d"}


def test_same_seed_gives_the_same_bytes_on_however_many_cores(layout, tmp_path, monkeypatch):
    monkeypatch.setattr("mail.data.scenes.layout.SCENES_A_PROCESS", 12)  # so that two processes draw, in three tasks
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    write_published_layout(tmp_path, images=24, seed=3, config=MANY)
    names = sorted(p.relative_to(layout) for p in layout.rglob("*") if p.is_file())
    assert len(names) == 24 + 2
    for name in names:
        assert (layout / name).read_bytes() == (tmp_path / name).read_bytes(), name


def test_references_have_the_fields_of_grefcoco(layout, refs):
    instances = json.loads((layout / "synthetic" / "instances.json").read_text())
    annotations = {a["id"]: a for a in instances["annotations"]}
    keys = {"sent_ids", "file_name", "ann_id", "ref_id", "image_id", "split", "sentences", "category_id", "no_target"}
    for ref in refs:
        assert set(ref) == keys
        if ref["no_target"]:
            assert (ref["ann_id"], ref["category_id"]) == ([-1], [-1])
            continue
        own = [annotations[number] for number in ref["ann_id"]]
        assert {a["image_id"] for a in own} == {ref["image_id"]}
        assert [a["category_id"] for a in own] == ref["category_id"]
    assert {min(len(ref["ann_id"]), 3) for ref in refs if not ref["no_target"]} == {1, 2, 3}
    assert any(ref["no_target"] for ref in refs)


def test_no_scene_is_in_two_splits(refs):
    splits = {(ref["image_id"], ref["split"]) for ref in refs}
    assert len(splits) == len({image for image, _ in splits}) == 24
    assert {split for _, split in splits} == set(SPLITS)


# --- the data store ----------------------------------------------------------------------------------------------


def test_targets_are_unions_and_what_names_nothing_says_so(layout, refs, store):
    instances = json.loads((layout / "synthetic" / "instances.json").read_text())
    sizes = {image["id"]: (image["height"], image["width"]) for image in instances["images"]}
    masks = {
        a["id"]: rle.decode(checked_mask(a["segmentation"], *sizes[a["image_id"]])) for a in instances["annotations"]
    }
    names = {c["id"]: c["name"] for c in instances["categories"]}
    by_id = {f"many/{number}": ref for ref in refs for number in ref["sent_ids"]}
    rows = store.expressions().to_pylist()
    assert {row["expr_id"] for row in rows} == set(by_id)
    for row in rows:
        ref, target = by_id[row["expr_id"]], rle.decode(row["target"])
        assert row["no_target"] == ref["no_target"] == (not target.any())
        numbers = [] if ref["no_target"] else ref["ann_id"]
        assert row["ann_ids"] == numbers
        assert np.array_equal(target, sum((masks[n] for n in numbers), np.zeros_like(target)))
        kinds = dict.fromkeys(names[number] for number in ref["category_id"] if number != -1)
        assert row["category"] == ", ".join(kinds)


def test_what_reads_grefcoco_reads_them(layout, refs, tmp_path):
    (tmp_path / "grefcoco").mkdir()
    for name, copy in (("grefs(synthetic).json", "grefs(unc).json"), ("instances.json", "instances.json")):
        (tmp_path / "grefcoco" / copy).write_bytes((layout / "synthetic" / name).read_bytes())
    found = DATA_SETS["grefcoco"].open(tmp_path, "unc", layout / "images" / "train2014")
    read, findings = found.write_store(str(tmp_path / "store"))
    assert findings.expressions == sum(len(ref["sentences"]) for ref in refs)
    assert sum(read.expressions()["no_target"].to_pylist()) == sum(len(r["sent_ids"]) for r in refs if r["no_target"])


# --- what is said ------------------------------------------------------------------------------------------------


def test_half_of_the_sentences_name_one_object_and_a_sixth_none(said):
    counts = Counter(sentence.meaning.category for _, _, sentence in said)
    shares = {category: counts[category] / len(said) for category in SEVERAL_OR_NONE}
    assert 0.45 < 1 - sum(shares.values()) < 0.55
    assert 0.13 < shares["nothing"] < 0.2
    assert all(shares[category] > 0.07 for category in ("two", "kind", "group")), shares


def test_the_number_of_objects_is_that_of_the_category(said):
    for _, targets, sentence in said:
        several = {"two": len(targets) == 2, "nothing": not targets}
        several |= dict.fromkeys(("kind", "group"), len(targets) > 1)
        assert several.get(sentence.meaning.category, len(targets) == 1), sentence


def test_every_meaning_names_its_objects_beyond_doubt(said):
    for scene, targets, sentence in said:
        assert named(sentence.meaning, scene.objects, scene.size) == set(targets), (scene.index, sentence)


NOUNS = {"disc": "circle", "moon": "crescent", "plus": "cross", "stick": "bar"}
NOUNS |= {kind: kind for kind in ROUND + ANGULAR} | dict.fromkeys(("shape", "thing", "object", "one"), "")
NOUNS |= {noun + ("es" if noun in ("cross", "plus") else "s"): kind for noun, kind in NOUNS.items()}
SIZES = {"small": "small", "little": "small", "big": "large", "large": "large"}
SIDES = {"left": "left", "right": "right", "top": "top", "upper": "top", "bottom": "bottom", "lower": "bottom"}
BESIDE = {"to the left of": "left", "left of": "left", "to the right of": "right", "right of": "right"}
BESIDE |= {"above": "top", "over": "top", "below": "bottom", "under": "bottom", "behind": "behind"}
BESIDE |= {"in front of": "front", "closest to": "closest", "nearest to": "closest"}
ENDS = {"leftmost": "left", "far left": "left", "rightmost": "right", "far right": "right", "topmost": "top"}
ENDS |= {"highest": "top", "lowest": "bottom", "bottommost": "bottom", "biggest": "biggest", "largest": "biggest"}
ENDS |= {"smallest": "smallest", "tiniest": "smallest"}
EVERYTHING = re.compile(
    r"^(everything that is|all that is|everything|all(?= (on|in|at|to|left|right|above|over|below|under)\b))"
)
TOWARDS = {"left": (-1, 0), "right": (1, 0), "top": (0, -1), "bottom": (0, 1)}


def _first(words: dict[str, str], text: str) -> tuple[str, str] | None:
    """The first of `words` in a text as (word, what it stands for), longer ones before shorter ones."""
    found = re.search(rf"\b({'|'.join(sorted(words, key=len, reverse=True))})\b", text)
    return (found[0], words[found[0]]) if found else None


def _read(text: str, scene: Scene) -> set[int]:
    """All objects that a sentence's words are true of, in plain English: without margins, but that what is level with
    something, by a twentieth of the picture, is not above it."""
    middle = {n: (item.box[0] + item.box[2] / 2, item.box[1] + item.box[3] / 2) for n, item in enumerate(scene.objects)}
    height, width = scene.size

    def along(side: str, n: int) -> float:
        return TOWARDS[side][0] * middle[n][0] + TOWARDS[side][1] * middle[n][1]

    if parts := re.fullmatch(r"(?:both )?(.+?)(?: and | as well as | together with )(.+)", text):
        first, second = parts.groups()
        noun = next(reversed([word for word in f"{first} {second}".split() if NOUNS.get(word)]))
        first = first if set(first.split()) & set(NOUNS) else f"{first} {noun}"
        if second.endswith(" one"):
            second = second.removesuffix("one") + next(word for word in first.split() if NOUNS.get(word))
        return _read(first, scene) | _read(second, scene)
    text = EVERYTHING.sub("things", text)
    beside = _first(BESIDE, text)
    head, _, anchor = text.partition(f" {beside[0]} ") if beside else (text, "", "")
    words = head.split()
    kinds = {NOUNS[word] for word in words if word in NOUNS} - {""}
    colours, sizes = {word for word in words if word in COLOURS}, {SIZES[word] for word in words if word in SIZES}
    found = {
        n
        for n, item in enumerate(scene.objects)
        if kinds <= {item.kind} and colours <= {item.colour} and sizes <= {item.size}
    }
    if beside:
        (other,) = _read(anchor, scene)
        found.discard(other)
        if beside[1] == "closest":
            return set(sorted(found, key=lambda n: math.dist(middle[n], middle[other]))[:1])
        if beside[1] == "front":
            return {n for n in found if other in scene.objects[n].covers}
        if beside[1] == "behind":
            return {n for n in found if n in scene.objects[other].covers}
        return {n for n in found if along(beside[1], n) - along(beside[1], other) > min(scene.size) / 20}
    if counted := re.search(r"\b(second|third)\b.* from (?:the )?(\w+)$", head):
        ordered = sorted(found, key=lambda n: -along(counted[2], n))
        place = {"second": 1, "third": 2}[counted[1]]
        return set(ordered[place : place + 1])
    if end := _first(ENDS, head):
        if end[1] in TOWARDS:
            return set(sorted(found, key=lambda n: -along(end[1], n))[:1])
        bigger = -1 if end[1] == "biggest" else 1
        return set(sorted(found, key=lambda n: bigger * scene.objects[n].radius)[:1])
    for side in {SIDES[word] for word in words if word in SIDES}:
        found = {n for n in found if along(side, n) > (TOWARDS[side][0] * width + TOWARDS[side][1] * height) / 2}
    if {"middle", "center"} & set(words):
        found = {n for n in found if abs(middle[n][0] / width - 0.5) < 0.2 and abs(middle[n][1] / height - 0.5) < 0.2}
    return found


def test_whoever_reads_the_words_alone_finds_what_is_named(said):
    others = [(scene, set(t), s) for scene, t, s in said if s.meaning.category in SEVERAL_OR_NONE]
    assert len(others) > 500
    wrong = [(scene.index, s.text, t, _read(s.text, scene)) for scene, t, s in others if _read(s.text, scene) != t]
    assert not wrong


def test_numbers_are_those_of_what_is_named(said):
    numbers = {"both": 2, "two": 2, "three": 3, "four": 4, "five": 5}
    told = [(numbers[word], len(t)) for _, t, s in said for word in s.text.split() if word in numbers]
    assert len(told) > 50
    assert all(number == named for number, named in told)


def test_sentences_are_said_in_many_ways(said):
    for category, starts in (("kind", ("all", "every", "the", "both")), ("group", ("everything", "all", "every"))):
        texts = [s.text for _, _, s in said if s.meaning.category == category]
        assert {text.split()[0] for text in texts} >= set(starts)
    words = {word for _, _, s in said for word in s.text.split()}
    assert len(words) < 110
    assert not any(character in word for word in words for character in ".,")


def test_what_names_nothing_is_wrong_by_one_word(said):
    """Mostly the kind that is said is there, or the colour, or both apart."""
    near = []
    for scene, targets, sentence in said:
        if not targets:
            words = set(sentence.text.split())
            kinds = {NOUNS[word] for word in words if word in NOUNS}
            near.append(
                bool(kinds & {item.kind for item in scene.objects} or words & {item.colour for item in scene.objects})
            )
    assert np.mean(near) > 0.85


def test_what_is_said_in_a_test_split_is_of_its_kinds(said):
    for split, family in (("testA", ROUND), ("testB", ANGULAR)):
        named_kinds = {scene.objects[n].kind for scene, targets, _ in said if scene.split == split for n in targets}
        assert named_kinds
        assert named_kinds <= set(family)


def test_no_group_is_referred_to_twice_in_a_scene_and_none_is_all_there_is(scenes):
    for scene in scenes:
        groups = [r.targets for r in scene.references if r.targets]
        assert len(set(groups)) == len(groups)
        assert all(len(targets) < len(scene.objects) for targets in groups)
        texts = [s.text for r in scene.references if len(r.targets) != 1 for s in r.sentences]
        assert len(set(texts)) == len(texts)


# --- what is beyond doubt ----------------------------------------------------------------------------------------


def _object(x: float, y: float, kind="star", colour="red", size="small", visible=1.0) -> SceneObject:
    return SceneObject(
        kind=kind, colour=colour, size=size, radius=10, box=(x - 10, y - 10, 20, 20), area=400, visible=visible,
        covers={}, mask={},
    )  # fmt: skip


FRAME = (100, 100)
ALL_STARS = All(Meaning("star"))


def test_a_sliver_of_the_colour_may_be_one_of_all():
    stars = [_object(20, 20), _object(80, 80)]
    assert named(ALL_STARS, stars, FRAME) == {0, 1}
    assert named(ALL_STARS, [*stars, _object(50, 50, kind="ring")], FRAME) == {0, 1}
    assert named(ALL_STARS, [*stars, _object(50, 50, kind="ring", visible=0.2)], FRAME) is None
    assert named(Nothing(Meaning("ring")), [*stars, _object(50, 50, visible=0.2)], FRAME) is None


def test_a_medium_star_may_be_one_of_the_small_ones():
    stars = [_object(20, 20), _object(80, 80), _object(50, 50, size="large")]
    assert named(All(Meaning("star", None, "small")), stars, FRAME) == {0, 1}
    assert named(All(Meaning("star", None, "small")), [*stars, _object(20, 80, size="medium")], FRAME) is None
    assert named(Nothing(Meaning("star", None, "large")), [_object(20, 80, size="medium")], FRAME) is None


def test_a_ring_may_be_called_a_circle_but_no_circle_a_ring():
    ring, circles = _object(50, 50, kind="ring"), [_object(20, 20, kind="circle"), _object(80, 80, kind="circle")]
    assert named(All(Meaning("circle")), [*circles, ring], FRAME) is None
    assert named(Nothing(Meaning("circle")), [ring], FRAME) is None
    assert named(Nothing(Meaning("ring")), circles, FRAME) == set()


def test_what_is_far_above_and_a_little_left_may_count_as_left():
    ring = _object(60, 80, kind="ring")
    left = All(Meaning(place=Relation("left", Meaning("ring"))))
    assert named(left, [ring, _object(20, 80), _object(30, 70)], FRAME) == {1, 2}
    assert named(left, [ring, _object(20, 80), _object(30, 70), _object(52, 10)], FRAME) is None
    assert (
        named(Nothing(Meaning("star", place=Relation("left", Meaning("ring")))), [ring, _object(52, 10)], FRAME) is None
    )
    assert (
        named(Nothing(Meaning("star", place=Relation("left", Meaning("ring")))), [ring, _object(90, 10)], FRAME)
        == set()
    )


def test_a_place_on_the_border_is_in_doubt():
    stars = [_object(10, 50), _object(30, 50), _object(80, 50)]
    left = All(Meaning(place=Place("left", None)))
    assert named(left, stars, FRAME) == {0, 1}
    assert named(left, [*stars, _object(50, 90)], FRAME) is None


def test_of_two_stars_on_the_right_one_is_the_left_one():
    left = Nothing(Meaning("star", place=Place("left", None)))
    assert named(left, [_object(80, 50)], FRAME) == set()
    assert named(left, [_object(80, 50), _object(95, 50)], FRAME) is None


def test_there_is_no_third_of_two_but_always_a_closest():
    stars = [_object(20, 50), _object(80, 50), _object(50, 50, kind="ring")]
    assert named(Nothing(Meaning("star", place=Rank("left", 3))), stars, FRAME) == set()
    assert named(Nothing(Meaning("star", place=Rank("left", 2))), stars, FRAME) is None
    assert named(Nothing(Meaning("star", place=Relation("closest", Meaning("ring")))), stars, FRAME) is None


def test_two_things_are_two_and_each_is_certain():
    things = [_object(20, 50), _object(80, 50, colour="blue"), _object(50, 50, kind="ring")]
    assert named(Two(Meaning("star", "red"), Meaning("ring")), things, FRAME) == {0, 2}
    assert named(Two(Meaning("star"), Meaning("ring")), things, FRAME) is None
    assert named(Two(Meaning("star", "red"), Meaning(None, "red", place=Rank("left"))), things, FRAME) is None
