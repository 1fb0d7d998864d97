"""Which way of counting gives a stated number: each convention is found on predictions that tell it from the others."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from mail import rle
from mail.data import schema
from mail.errors import UserError
from mail.metrics import count, measure
from mail.metrics.explaining import Explanation, explain, read_stated
from mail.metrics.predictions import Prediction, PredictionSet
from mail.metrics.protocols import PROTOCOLS

RNG = np.random.default_rng(3)


def blob(size: tuple[int, int], fraction: float) -> np.ndarray:
    found = np.zeros(size, bool)
    height, width = (max(1, round(side * fraction)) for side in size)
    found[3 : 3 + height, 5 : 5 + width] = True
    return found


def world() -> tuple[pa.Table, dict[str, np.ndarray]]:
    """Thirty sentences of fifteen referents on photos of three sizes, five of them without a target; their answers."""
    rows, answers = [], {}
    for number in range(30):
        size = ((60, 80), (81, 47), (500, 333))[number % 3]
        target = blob(size, 0.3 + 0.01 * number)
        if number % 6 == 5:
            target[:] = False
        answer = np.roll(target, 1 + number // 4, axis=1)
        if number in (5, 11):
            answer[2:9, 4:9] = True
        rows.append(
            {
                "expr_id": f"d/{number}",
                "ref_id": f"d/ref-{number // 2}",
                "image_id": f"i/{number}",
                "text": "x",
                "target": rle.encode(target),
                "no_target": not target.any(),
                "ann_ids": [number],
            }
        )
        answers[f"d/{number}"] = answer
    rows.sort(key=lambda row: (row["image_id"], row["expr_id"]))
    return pa.Table.from_pylist(rows, schema.EXPRESSIONS), answers


EXPRESSIONS, ANSWERS = world()


def predictions(flags: dict[str, bool] | None = None) -> PredictionSet:
    own = {e: Prediction(rle.encode(a), no_target=(flags or {}).get(e)) for e, a in ANSWERS.items()}
    return PredictionSet("p", own)


def run(stated: float, protocol: str = "original", given: Any = None, **more: Any) -> Explanation:
    given = given or {0.5: predictions()}
    return explain(f"{100 * stated:.6f}", EXPRESSIONS, given, split="val", protocol=PROTOCOLS[protocol], **more)


def by(name: str, given: PredictionSet | None = None) -> Any:
    """What a protocol itself gives."""
    given, protocol = given or predictions(), PROTOCOLS[name]
    rows = EXPRESSIONS.select(["expr_id", "target"]).to_pylist()
    masks = {r["expr_id"]: given.masks[r["expr_id"]] for r in rows}
    own = {r["expr_id"]: (masks[r["expr_id"]], r["target"]) for r in rows}
    return measure({e: count(p.rle, t, protocol, p.no_target) for e, (p, t) in own.items()}, protocol)


@pytest.mark.parametrize("name", PROTOCOLS)
@pytest.mark.parametrize("figure", ["oIoU", "mIoU", "Prec@.5", "Prec@.8"])
def test_a_protocols_own_figure_is_found_from_any_other(name: str, figure: str):
    found = by(name)
    value = found.prec["0." + figure[-1]] if figure.startswith("Prec") else getattr(found, figure)
    for asked in ("original", "lavt"):
        nearest = run(value, asked).ways
        same = [w for w in nearest if abs(w.away) < 1e-7]
        assert (figure, value) in [(w.figure, pytest.approx(w.value)) for w in same]
        assert nearest[0] in same
        if nearest[0].protocol == asked:
            assert nearest[0].differs == ()


def test_the_figure_and_not_the_protocol_may_be_what_differs():
    found = run(by("original").mIoU)
    assert (found.ways[0].figure, found.ways[0].protocol, found.ways[0].differs) == ("mIoU", "original", ())
    assert "is the mIoU of protocol original (protocol original gives oIoU" in found.words


def test_a_squashed_count_is_named_with_its_protocol():
    way = run(by("lavt").oIoU).ways[0]
    assert (way.figure, way.protocol) == ("oIoU", "lavt")
    assert way.differs == ("squashed to 480 x 480",)


def test_sentences_left_out_are_found():
    first = {f"d/{n}" for n in range(0, 30, 2)}  # by number, where the store has d/10 before d/2
    targeted = {r["expr_id"] for r in EXPRESSIONS.to_pylist() if not r["no_target"]}
    rows = {r["expr_id"]: r["target"] for r in EXPRESSIONS.to_pylist()}
    for ids, words in ((first, "one sentence a referent (the first) counted"), (targeted, "sentences with a target")):
        counts = {e: count(rle.encode(ANSWERS[e]), rows[e]) for e in ids}
        way = run(measure(counts).mIoU or 0).ways[0]
        assert (way.figure, way.protocol) == ("mIoU", None)
        assert len(way.differs) == 1
        assert way.differs[0].startswith(words)


def test_a_threshold_is_tried_where_there_are_probabilities():
    low = predictions()
    half = PredictionSet(
        "p", {e: Prediction(rle.encode(a & (np.indices(a.shape)[1] % 2 == 0))) for e, a in ANSWERS.items()}
    )
    way = run(by("original", low).oIoU, given={0.5: half, 0.35: low}).ways[0]
    assert (way.figure, way.differs) == ("oIoU", ("foreground from .35",))
    assert not any("threshold" in text for text in run(0.5, given={0.5: half, 0.35: low}).not_tried)
    assert any("threshold" in text for text in run(0.5).not_tried)


def test_polygons_summed_are_tried_where_they_are_at_hand():
    summed = {r["expr_id"]: rle.encode(rle.decode(r["target"]) & (np.indices(r["target"]["size"])[0] % 3 > 0))
              for r in EXPRESSIONS.to_pylist()}  # fmt: skip
    counts = {e: count(rle.encode(ANSWERS[e]), t) for e, t in summed.items()}
    way = run(measure(counts).oIoU or 0, summed=summed).ways[0]
    assert way.differs == ("targets are the polygons summed, where the sum is 1",)
    assert any("--instances" in text for text in run(0.5).not_tried)


def test_flags_beside_the_masks_are_heard_or_not():
    flagged = predictions({f"d/{n}": n % 5 == 0 for n in range(30)})
    value = by("rela", flagged).oIoU
    way = run(value, given={0.5: flagged}).ways[0]
    assert (way.figure, way.protocol) == ("oIoU", "rela")
    assert way.differs == ("squashed to 480 x 480", "a flag beside the mask is heard")


def test_what_rounds_to_the_number_comes_first_and_the_simplest_of_it():
    value = by("original").oIoU
    found = explain(f"{100 * value:.0f}", EXPRESSIONS, {0.5: predictions()}, split="val")
    assert (found.decimals, found.ways[0].figure, found.ways[0].differs) == (0, "oIoU", ())
    off = [abs(w.away) for w in found.ways]
    beyond = [d for d in off if d > 0.005]
    assert beyond == sorted(beyond)
    assert off[len(off) - len(beyond) :] == beyond


def test_a_number_that_nothing_comes_near_is_not_explained_away():
    found = run(0.05)
    assert found.words.startswith("No way gives 5.000000. Nearest is the ")
    assert "another split or edition of the data are likelier" in found.words


def test_equal_figures_are_listed_once():
    ways = run(0.5).ways
    assert len({(w.figure, w.value) for w in ways}) == len(ways)


@pytest.mark.parametrize(
    ("text", "value", "decimals"), [("72.73", 0.7273, 2), (".7273", 0.7273, 2), ("0.7", 0.7, 0), ("73", 0.73, 0)]
)
def test_numbers_are_read_as_they_are_printed(text: str, value: float, decimals: int):
    assert read_stated(text) == (pytest.approx(value), decimals)


@pytest.mark.parametrize("text", ["", ".", "abc", "101", "-3", "7,2", "nan", "1e1"])
def test_what_is_no_figure_is_refused(text: str):
    with pytest.raises(UserError, match="is no figure: write it as it was printed"):
        read_stated(text)
