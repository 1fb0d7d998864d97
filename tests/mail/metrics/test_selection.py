"""Where the error of propose-then-select sits: one expression of each kind, and the figures of all of them."""

import numpy as np
import pytest

from mail import rle
from mail.metrics.selection import OUTCOMES, Selection, choose


def row(start: int, end: int) -> rle.RLE:
    """Pixels of a row of 100."""
    return rle.encode((start <= np.arange(100)[None]) & (np.arange(100)[None] < end))


TARGET, GOOD, POOR, AWAY = row(0, 40), row(0, 32), row(30, 60), row(80, 90)  # IoU 1, .8, 1/6, 0
KINDS = [  # proposals, selection, IoU of the final mask -> outcome, ceiling, chosen
    ([POOR, GOOD], [1, 0], 0.9, "right", 0.8, 0.8),
    ([POOR, GOOD], [1], 0.4, "right, spoilt", 0.8, 0.8),
    ([POOR, GOOD], [0, 1], 0.49, "passed over", 0.8, 1 / 6),
    ([POOR, GOOD], [], 0.1, "passed over", 0.8, 0.0),
    ([POOR, GOOD], [0], 0.5, "passed over, mended", 0.8, 1 / 6),
    ([POOR, AWAY], [1], 0.2, "none there", 1 / 6, 0.0),
    ([], [], 0.0, "none there", 0.0, 0.0),
    ([POOR], [0], 0.7, "none there, mended", 1 / 6, 1 / 6),
    ([row(0, 20)], [0], 0.5, "right", 0.5, 0.5),  # from .5 on one is good
]


@pytest.mark.parametrize(("proposals", "selection", "final", "outcome", "ceiling", "chosen"), KINDS)
def test_an_expression_is_of_one_kind(proposals, selection, final, outcome, ceiling, chosen):
    found = choose(TARGET, proposals, selection, final)
    assert (found.outcome, found.ceiling, found.chosen) == (outcome, pytest.approx(ceiling), pytest.approx(chosen))


def test_a_proposal_that_does_not_meet_the_target_is_not_the_best_and_an_index_beyond_the_table_is_none():
    assert choose(TARGET, [AWAY], [7], 0.0)[3:] == ((), ())
    assert choose(TARGET, [AWAY], [-1], 0.0).chosen == 0


LEFT, RIGHT, HALF_OUT = row(0, 20), row(22, 40), row(20, 60)  # inside of it 1, 1 and .5: two members of a group
SEVERAL = [  # proposals, selection -> ceiling and chosen, best and taken
    ([AWAY, LEFT, RIGHT], [2, 1], 38 / 40, 38 / 40, (1, 2), (2, 1)),
    ([AWAY, LEFT, RIGHT], [1], 38 / 40, 20 / 40, (1, 2), (1,)),
    ([AWAY, LEFT, RIGHT], [1, 0, 2], 38 / 40, 38 / 50, (1, 2), (1, 0, 2)),
    ([LEFT, RIGHT, TARGET], [], 1.0, 0.0, (2,), ()),  # the single one is no worse than with its parts
    ([HALF_OUT, AWAY], [0], 20 / 60, 20 / 60, (0,), (0,)),
    ([HALF_OUT, LEFT], [0], 40 / 60, 20 / 60, (1, 0), (0,)),  # half of it outside, and better than without
    ([row(39, 60), LEFT], [], 20 / 40, 0.0, (1,), ()),
    ([AWAY], [0, 9], 0.0, 0.0, (), (0,)),
]


@pytest.mark.parametrize(("proposals", "selection", "ceiling", "chosen", "best", "taken"), SEVERAL)
def test_of_several_all_count_together(proposals, selection, ceiling, chosen, best, taken):
    found = choose(TARGET, proposals, selection, 0.0, several=True)
    assert (found.ceiling, found.chosen) == (pytest.approx(ceiling), pytest.approx(chosen))
    assert (found.best, found.taken) == (best, taken)
    assert choose(TARGET, proposals, selection, 0.0).taken == taken[:1]


def test_what_names_nothing_has_no_ceiling_and_counts_nowhere():
    choices = {str(n): choose(TARGET, *kind[:3]) for n, kind in enumerate(KINDS)}
    alone = Selection.of(choices)
    choices["nothing"] = choose(rle.empty(1, 100), [GOOD], [0], 0.0)
    assert choices["nothing"].outcome == "names nothing"
    assert Selection.of(choices) == alone
    assert Selection.of({"nothing": choices["nothing"]}).ceiling is None


def test_the_shares_of_chosen_passed_over_and_absent_proposals_are_all():
    found = Selection.of({str(n): choose(TARGET, *kind[:3]) for n, kind in enumerate(KINDS)})
    assert found.expressions == len(KINDS) == 9
    assert [found.chosen_good, found.passed_over, found.none_there] == [3 / 9, 3 / 9, 3 / 9]
    assert [found.mended, found.spoilt] == [2 / 9, 1 / 9]
    assert found.outcomes == dict(zip(OUTCOMES, (2, 1, 2, 1, 2, 1), strict=True))
    assert found.ceiling == pytest.approx((5 * 0.8 + 2 / 6 + 0.5) / 9)
    assert found.final == pytest.approx(sum(kind[2] for kind in KINDS) / 9)


def test_parts_together_are_the_whole():
    choices = {str(n): choose(TARGET, *kind[:3]) for n, kind in enumerate(KINDS)}
    parts = [{k: v for k, v in choices.items() if (int(k) < 4) == first} for first in (True, False)]
    together, whole = (
        Selection.together([Selection.of(p).to_dict() for p in parts]).to_dict(),
        Selection.of(choices).to_dict(),
    )
    assert together.pop("outcomes") == whole.pop("outcomes")
    assert together == pytest.approx(whole)
    assert Selection.together([Selection.of({}).to_dict()]) == Selection.of({})
