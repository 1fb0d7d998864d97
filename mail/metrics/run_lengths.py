"""Checks run lengths that somebody else wrote, many at once, before any C code reads them.

pycocotools trusts its input: run lengths that do not add up to the image are silently counted with the wrong area.
Ten thousand masks are checked in some hundredths of a second, since all strings are decoded as one array.
"""

from collections.abc import Sequence

import numpy as np

_CHUNK = 2**17  # characters


def find_invalid(counts: Sequence[bytes], pixels: Sequence[int]) -> dict[int, str]:
    """Index -> reason of each COCO-compressed string that is not a mask of so many pixels.

    Args:
        counts: compressed run lengths (cocoapi `rleToString`: base 32, sign and continuation bits, differences to the
            run two before).
        pixels: height x width of each mask.
    """
    problems: dict[int, str] = {}
    ends = np.cumsum([len(c) for c in counts])
    first = 0
    while first < len(counts):  # parts that stay in the processor's cache
        done = int(ends[first - 1]) if first else 0
        last = max(first + 1, int(np.searchsorted(ends, done + _CHUNK, side="right")))
        part = _find_invalid(counts[first:last], pixels[first:last])
        problems.update({first + i: reason for i, reason in part.items()})
        first = last
    return problems


def _find_invalid(counts: Sequence[bytes], pixels: Sequence[int]) -> dict[int, str]:
    problems: dict[int, str] = {}
    lengths = np.array([len(c) for c in counts], dtype=np.int64)
    for i in np.flatnonzero(lengths == 0):
        problems[int(i)] = "its counts are empty"
    codes = np.frombuffer(b"".join(counts), dtype=np.uint8).astype(np.int64) - 48
    if not len(codes):
        return problems
    mask_of_code = np.repeat(np.arange(len(counts)), lengths)
    for i in np.unique(mask_of_code[(codes < 0) | (codes > 63)]):
        problems[int(i)] = "its counts hold characters that COCO run lengths cannot have"
    ends = np.flatnonzero((codes & 32) == 0)  # last character of each run
    last = np.cumsum(lengths)[lengths > 0] - 1
    for i in np.flatnonzero(lengths > 0)[(codes[last] & 32) != 0]:
        problems.setdefault(int(i), "its counts are cut off")
    if len(ends) == 0:
        return problems
    codes, mask_of_code = codes[: ends[-1] + 1], mask_of_code[: ends[-1] + 1]
    starts = np.concatenate([[0], ends[:-1] + 1])
    digits = ends - starts + 1
    mask_of_run = mask_of_code[ends]
    for i in np.unique(mask_of_run[digits > 7]):
        problems.setdefault(int(i), "it has a run of more pixels than an image can have")
    place = np.minimum(np.arange(len(codes)) - np.repeat(starts, digits), 7)
    runs = np.add.reduceat((codes & 31) << (5 * place), starts)
    runs -= np.where(codes[ends] & 16, np.int64(1) << (5 * np.minimum(digits, 8)), 0)
    # undo the differences: runs 1, 3, 5, ... and 2, 4, 6, ... are two cumulative sums, run 0 stands alone
    first_of_mask = np.concatenate([[True], mask_of_run[1:] != mask_of_run[:-1]])
    position = np.arange(len(runs)) - np.maximum.accumulate(np.where(first_of_mask, np.arange(len(runs)), 0))
    chain = mask_of_run * 3 + np.where(position == 0, 0, 2 - position % 2)
    order = np.argsort(chain, kind="stable")
    summed = np.cumsum(runs[order])
    head = np.concatenate([[True], chain[order][1:] != chain[order][:-1]])
    before = np.concatenate([[0], summed[:-1]])
    lengths_of_runs = np.empty_like(runs)
    lengths_of_runs[order] = summed - np.repeat(before[head], np.diff(np.append(np.flatnonzero(head), len(runs))))
    for i in np.unique(mask_of_run[lengths_of_runs < 0]):
        problems.setdefault(int(i), "it has a run of negative length")
    totals = np.zeros(len(counts), dtype=np.int64)
    np.add.at(totals, mask_of_run, lengths_of_runs)
    for wrong in np.flatnonzero(totals != np.asarray(pixels, dtype=np.int64)).tolist():
        problems.setdefault(wrong, f"its runs add up to {totals[wrong]} pixels, not height x width = {pixels[wrong]}")
    return problems
