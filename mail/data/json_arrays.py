"""Reads the arrays of one big JSON object, or one big array, an element at a time, with the place of each in the file.

The bytes are read as Latin-1, so that a character is a byte and positions are file offsets; an element that is not
ASCII is parsed again as UTF-8.
"""

import json
from collections.abc import Iterator
from typing import Any

_CHUNK = 4 * 2**20
_LARGEST_VALUE = 256 * 2**20
_BLANK = " \t\r\n"

Element = tuple[str, int, Any, int, int]
"""The array's key ("" where the file is one array), the element's number in it, the element, its file offset, its
length in bytes."""


class JsonArrays:
    """Iterates over every element of every array of the object, or of the one array, in a binary stream.

    An array yields (key, -1, None, 0, 0) first, so that an empty one is seen too; other values are skipped.

    Raises:
        ValueError: the stream is neither a JSON object nor an array, or is cut off; says at which byte.
    """

    def __init__(self, stream: Any):
        self.stream = stream
        self.decoder = json.JSONDecoder()
        self.text = ""
        self.at = 0  # position in `text`
        self.offset = 0  # file offset of text[0]
        self.ended = False

    def __iter__(self) -> Iterator[Element]:
        if self._peek() == "\xef":
            self.at += 3  # byte order mark
        if self._peek() == "[":
            yield from self._array("")
            return
        self._expect("{")
        while self._peek() != "}":
            key, _, _ = self._value()
            self._expect(":")
            if self._peek() == "[":
                yield from self._array(str(key))
            else:
                self._value()
            if self._peek() == ",":
                self.at += 1
            elif self._peek() != "}":
                raise ValueError(f"expected ',' or '}}' at byte {self.offset + self.at}")

    def _array(self, key: str) -> Iterator[Element]:
        self.at += 1
        yield key, -1, None, 0, 0
        number = 0
        while self._peek() != "]":
            value, start, length = self._value()
            yield key, number, value, start, length
            number += 1
            if self._peek() == ",":
                self.at += 1
            elif self._peek() != "]":
                raise ValueError(f"expected ',' or ']' at byte {self.offset + self.at}")
        self.at += 1

    def _fill(self, size: int) -> None:
        chunk = self.stream.read(size)
        self.ended = not chunk
        self.text = self.text[self.at :] + chunk.decode("latin-1")
        self.offset += self.at
        self.at = 0

    def _peek(self) -> str:
        while True:
            while self.at < len(self.text) and self.text[self.at] in _BLANK:
                self.at += 1
            if self.at < len(self.text):
                return self.text[self.at]
            if self.ended:
                raise ValueError(f"it ends at byte {self.offset + self.at}")
            self._fill(_CHUNK)

    def _expect(self, character: str) -> None:
        if self._peek() != character:
            raise ValueError(f"expected {character!r} at byte {self.offset + self.at}")
        self.at += 1

    def _value(self) -> tuple[Any, int, int]:
        self._peek()
        while True:
            try:
                value, end = self.decoder.raw_decode(self.text, self.at)
                if end < len(self.text) or self.ended:  # a number could go on in the next chunk
                    break
            except RecursionError:
                raise ValueError(f"the value at byte {self.offset + self.at} is nested too deeply") from None
            except ValueError:
                if self.ended or len(self.text) - self.at > _LARGEST_VALUE:
                    raise
            self._fill(max(_CHUNK, len(self.text) - self.at))  # twice as much, so that retries add up to little
        piece = self.text[self.at : end]
        start = self.offset + self.at
        self.at = end
        if not piece.isascii():
            value = json.loads(piece.encode("latin-1"))
        return value, start, len(piece)
