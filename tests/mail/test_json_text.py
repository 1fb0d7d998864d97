"""However JSON is wrong, it is one kind of error, and a record that is wrong is named."""

import pytest

from mail import json_text
from mail.errors import UserError

DEEP = b"[" * 100_000


@pytest.mark.parametrize("text", [DEEP, b'{"a":' * 100_000, b"\xff", b"", b"{", b"9" * 5000, "{\x00}"])
def test_everything_wrong_is_a_value_error(text: str | bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        json_text.parse(text)


@pytest.mark.parametrize("text", [DEEP, b"[]", b"null", b'{"name": 1}'])
def test_a_record_that_is_none_is_refused_with_its_place(text: bytes) -> None:
    with pytest.raises(UserError, match=r"^run.json is no record to go on from \("):
        json_text.read_record("run.json", text, "name", "digest")
    assert json_text.read_record("run.json", b'{"name": 1, "digest": 2}', "name", "digest") == {"name": 1, "digest": 2}
