"""How inputs are spoilt: Hypothesis strategies that start from a sound file, so that most damage lies deep in it."""

import copy
import json
import pickle
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

VALUES: list[Any] = [
    *(None, True, False, 0, -1, 1, 7, 2**31, 2**63, -(2**63) - 1, 2**70, 10**400, 0.5, -0.0, 1e308),
    *(float("nan"), float("inf"), "", " ", "0", "1", "-1", "1.5", "nan", "None", "no number"),
    *("../outside.png", "/etc/passwd", "..\\outside.png", "a\0b", "%2e%2e/outside.png", "http://127.0.0.1:9/a.jpg"),
    *("x" * 5000, "\ud83d", "\udfff\ud83d", "e\u0301", "\u202e", "한국어", "\r\n\u2028"),
    *([], {}, [[]], [0], [[0, 0]], [[1, 1, 1, 1, 1, 1]], [1, 2, 3, 4, 5, 6], [[1e308] * 6], [[-5, -5, 90, -5, 90, 90]]),
    *({"size": [30, 40], "counts": "zzzz"}, {"size": [-1, 4], "counts": [1]}, {"size": [10**9, 10**9], "counts": [1]}),
    *({"size": [30, 40], "counts": [1200]}, {"size": "30x40", "counts": None}, {"": {"": {"": []}}}),
]
BYTES = (b"", b"\0", b"\xff", b"\xff\xff\xff\xff", b"\xed\xa0\x80", b"\n", b'"', b"]", b"[" * 3000, b"9" * 400, b"NaN")
PROGRAMS = (  # what an unpickler that runs code would do
    b"cos\nsystem\n(S'touch ran'\ntR.",
    b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x09touch ran\x85R.",
    b'c__builtin__\neval\n(S\'open("ran","w")\'\ntR.',
    b"(S'touch ran'\nios\nsystem\n.",
)


def places(document: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) of a JSON document."""
    if isinstance(document, dict | list):
        for key in document if isinstance(document, dict) else range(len(document)):
            yield document, key
            yield from places(document[key])


@st.composite
def documents(draw: st.DrawFn, sound: Any) -> Any:
    """A JSON document with one to three places changed."""
    document = copy.deepcopy(sound)
    for _ in range(draw(st.integers(1, 3))):
        found = list(places(document))
        if not found:
            break
        container, key = found[draw(st.integers(0, len(found) - 1))]
        match draw(st.sampled_from(["value", "value", "value", "drop", "twice", "swap"])):
            case "value":
                container[key] = copy.deepcopy(draw(st.sampled_from(VALUES)))
            case "drop":
                del container[key]
            case "twice" if isinstance(container, list):
                container.append(copy.deepcopy(container[key]))
            case _:
                other, place = found[draw(st.integers(0, len(found) - 1))]
                container[key] = copy.deepcopy(other[place]) if place in _keys(other) else None
    return document


def _keys(container: Any) -> Any:
    return container if isinstance(container, dict) else range(len(container))


@st.composite
def damaged(draw: st.DrawFn, sound: bytes) -> bytes:
    """Bytes with one to four places overwritten, cut out, doubled, or filled with what readers stumble over."""
    data = bytearray(sound)
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, max(0, len(data) - 1)))
        end = min(len(data), start + draw(st.sampled_from([1, 2, 4, 8, 64, 1000])))
        match draw(st.sampled_from(["bits", "put", "in place", "cut", "end", "twice"])):
            case "bits":
                data[start:end] = bytes(b ^ draw(st.integers(1, 255)) for b in data[start : min(end, start + 8)])
            case "put":
                data[start:start] = draw(st.sampled_from(BYTES))
            case "in place":
                data[start:end] = draw(st.binary(min_size=end - start, max_size=end - start))
            case "cut":
                del data[start:end]
            case "end":
                del data[start:]
            case "twice":
                data[start:start] = data[start:end]
    return bytes(data)


def json_files(sound: Any) -> st.SearchStrategy[bytes]:
    """A JSON file whose document or whose bytes are spoilt."""
    text = json.dumps(sound).encode()
    return st.one_of(documents(sound).map(lambda d: json.dumps(d).encode()), damaged(text))


def json_lines(sound: list[Any]) -> st.SearchStrategy[bytes]:
    """A file of JSON Lines, likewise."""

    def lines(document: Any) -> bytes:
        return b"".join(json.dumps(line).encode() + b"\n" for line in document)

    return st.one_of(documents(sound).map(lines), damaged(lines(sound)))


def pickles(sound: Any) -> st.SearchStrategy[bytes]:
    """A pickle, likewise, or one with a program in it."""
    text = pickle.dumps(sound, 2)
    programs = st.tuples(st.sampled_from(PROGRAMS), st.integers(0, len(text))).map(
        lambda p: text[: p[1]] + p[0] + text[p[1] :]
    )
    return st.one_of(documents(sound).map(lambda d: pickle.dumps(d, 2)), damaged(text), programs)
