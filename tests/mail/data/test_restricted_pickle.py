import collections
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest

from mail.data import restricted_pickle
from mail.errors import UserError

PLAIN = [
    {
        "ref_id": 5342,
        "ann_id": [1, 2**40, -3],
        "split": "testA",
        "box": (0.5, -1e300, float("inf")),
        "tags": {"a", "b"},
        "frozen": frozenset({1}),
        "raw": b"\xff\x00",
        "none": None,
        "yes": True,
        "sent": "caf\u00e9 \u4e2d \U0001f600 'quoted' \"twice\"\nnext\\line",
    },
    [],
    {},
]


class Shell:
    def __init__(self, command: str):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("protocol", [4, 5])
def test_plain_data_survives_the_protocols_of_python_3(protocol):
    assert restricted_pickle.loads(pickle.dumps(PLAIN, protocol)) == PLAIN


@pytest.mark.parametrize("protocol", range(4))
def test_plain_data_survives_older_protocols_that_cannot_write_sets(protocol):
    data = [{k: v for k, v in PLAIN[0].items() if k not in ("raw", "tags", "frozen")}]
    assert restricted_pickle.loads(pickle.dumps(data, protocol)) == data


def test_python_2_byte_strings_become_text():
    utf8, latin1 = "caf\u00e9".encode(), "caf\u00e9".encode("latin-1")
    for text in (utf8, latin1):
        short = b"\x80\x02U" + bytes([len(text)]) + text + b"."
        as_repr = b"S" + repr(text)[1:].encode() + b"\np0\n."
        assert restricted_pickle.loads(short) == restricted_pickle.loads(as_repr) == "caf\u00e9"


def test_shared_objects_stay_shared():
    shared = ["x"]
    first, second = restricted_pickle.loads(pickle.dumps([shared, shared]))
    assert first is second


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_command_in_a_pickle_is_not_run(tmp_path, protocol):
    victim = tmp_path / "ran"
    file = tmp_path / "refs(unc).p"
    file.write_bytes(pickle.dumps([{"ref_id": Shell(f"touch {victim}")}], protocol))
    with pytest.raises(UserError, match=r"refs\(unc\)\.p is refused: it asks for (posix|nt)\.system"):
        restricted_pickle.load(file)
    assert not victim.exists()


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"c__builtin__\neval\n(S'1+1'\ntR.", "__builtin__.eval"),
        (b"cbuiltins\neval\n(S'1+1'\ntR.", "builtins.eval"),
        (b"(S'true'\nios\nsystem\n.", "os.system"),  # INST
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R.", "os.system"),  # STACK_GLOBAL
        (b"\x80\x02)R.", "REDUCE"),
        (b"\x80\x02}}b.", "BUILD"),
        (b"\x80\x02))\x81.", "NEWOBJ"),
        (b"(S'a'\no.", "OBJ"),
        (b"\x80\x02\x82\x01.", "EXT1"),
        (b"Pdatabase\n.", "PERSID"),
        (b"N\x51.", "BINPERSID"),
        (b"\x80\x05\x96" + struct.pack("<Q", 1) + b"x.", "BYTEARRAY8"),
        (b"\x80\x05\x97.", "NEXT_BUFFER"),
    ],
)
def test_every_instruction_that_could_reach_out_is_refused_by_name(data, what):
    with pytest.raises(UserError, match="is refused") as caught:
        restricted_pickle.loads(data, "refs(unc).p")
    assert what in str(caught.value)


@pytest.mark.parametrize("value", [np.int64(3), np.arange(3), collections.OrderedDict(a=1), Path("x"), 1 + 2j])
def test_objects_that_are_not_plain_data_are_refused(value):
    with pytest.raises(UserError, match="asks for"):
        restricted_pickle.loads(pickle.dumps(value))


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_truncation_anywhere_is_a_clear_error(protocol):
    whole = pickle.dumps(PLAIN[0]["sent"].split() * 3, protocol)
    for end in range(len(whole) - 1):
        with pytest.raises(UserError, match=r"refs\(unc\)\.p is not a readable pickle"):
            restricted_pickle.loads(whole[:end], "refs(unc).p")


@pytest.mark.parametrize("data", [b"\x00\x01\x02", b"<html>", b"]a.", b"0.", b"\x80\x09.", b"t.", b"I12x\n."])
def test_bytes_that_are_no_pickle_are_a_clear_error(data):
    with pytest.raises(UserError, match=r"not a readable pickle|refused"):
        restricted_pickle.loads(data)


def test_huge_memo_index_costs_nothing():
    assert restricted_pickle.loads(b"\x80\x02]r" + struct.pack("<I", 2**31 - 1) + b".") == []


def test_nested_tuples_cannot_be_hashed():
    doubled = b")" + b"2\x86" * 60  # EMPTY_TUPLE, then DUP + TUPLE2 sixty times: 2**60 leaves
    for container in (b"}" + doubled + b"Ns.", b"(" + doubled + b"Nd.", b"\x8f(" + doubled + b"\x90."):
        with pytest.raises(UserError, match="uses a tuple as a key"):
            restricted_pickle.loads(container)


def test_declared_length_beyond_the_file_allocates_nothing():
    with pytest.raises(UserError, match="not a readable pickle"):
        restricted_pickle.loads(b"\x80\x04\x8d" + struct.pack("<Q", 2**62) + b"x.")


def test_missing_and_oversized_files_are_named(tmp_path):
    with pytest.raises(UserError, match=r"absent\.p cannot be read"):
        restricted_pickle.load(tmp_path / "absent.p")
    (tmp_path / "big.p").write_bytes(bytes(100))
    with pytest.raises(UserError, match="more than the 99"):
        restricted_pickle.load(tmp_path / "big.p", max_bytes=99)
