"""Reads annotation pickles (`refs(unc).p`, Python 2 or 3) without trusting them.

A pickle is a program. This reader runs only the instructions that build plain data: None, booleans, numbers, strings,
bytes, lists, tuples, dictionaries and sets. Everything that could name a class or a function, call one, or reach
outside (GLOBAL, REDUCE, BUILD, INST, OBJ, NEWOBJ, PERSID, EXT, ...) is refused by name before it does anything.

It is the standard library's interpreter written in Python, with most of its instructions taken out, and not the C one,
because that allocates its memo as an array: an index of 2**31 in a 20-byte file would cost 32 GiB. Here the memo is a
dictionary. Keys must be scalars, so that no nested tuple can make hashing take exponential time.
"""

import io
import os
import pickle
import pickletools
from pathlib import Path
from typing import Any

from mail.errors import UserError

MAX_BYTES = 256 * 2**20  # the largest published file of this kind has some 30 MiB

_SCALARS = (str, bytes, int, float, bool, type(None))
_INSTRUCTIONS = {op.name: op.code.encode("latin-1") for op in pickletools.opcodes}
_ALLOWED = (
    "PROTO FRAME STOP MARK POP POP_MARK DUP NONE NEWTRUE NEWFALSE "
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT "
    "STRING BINSTRING SHORT_BINSTRING BINBYTES SHORT_BINBYTES BINBYTES8 "
    "UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8 "
    "EMPTY_LIST LIST APPEND APPENDS EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 "
    "EMPTY_DICT DICT SETITEM SETITEMS EMPTY_SET ADDITEMS FROZENSET "
    "GET BINGET LONG_BINGET PUT BINPUT LONG_BINPUT MEMOIZE"
)


class _Forbidden(Exception):
    """The pickle asks for something that plain data never needs; the text says what."""


def load(path: str | os.PathLike, max_bytes: int = MAX_BYTES) -> Any:
    """Content of a pickle file of plain data.

    Python 2's byte strings become text: UTF-8 where they are valid UTF-8, else Latin-1.

    Raises:
        UserError: the file is missing, too large, truncated, not a pickle, or wants to build anything else.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        if size > max_bytes:
            raise UserError(f"{path} has {size:,} bytes, more than the {max_bytes:,} that an annotation file may have")
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
    return loads(data, str(path))


def loads(data: bytes, name: str = "pickle") -> Any:
    """Like `load`, from bytes; `name` is what errors call them."""
    try:
        return _PlainDataUnpickler(io.BytesIO(data)).load()
    except _Forbidden as error:
        raise UserError(
            f"{name} is refused: it {error}. Annotation files need only lists, dictionaries, text and numbers; "
            "nothing of it was executed. Get the file from its publisher again, or save it as plain data"
        ) from None
    except Exception as error:  # broken input makes the interpreter fail in a dozen ways that all mean the same
        reason = "it ends too early" if isinstance(error, EOFError) else f"{type(error).__name__}: {error}"
        raise UserError(f"{name} is not a readable pickle ({reason}): download it again") from None


class _PlainDataUnpickler(pickle._Unpickler):
    stack: list[Any]
    readline: Any

    def _decode_string(self, value: bytes) -> str:
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            return value.decode("latin-1")

    def find_class(self, module: str, name: str) -> Any:
        raise _Forbidden(f"asks for {module}.{name}")

    def persistent_load(self, pid: Any) -> Any:
        raise _Forbidden("refers to an object outside the file")

    def refuse_global(self) -> None:
        module, name = (self.readline()[:-1].decode("latin-1") for _ in range(2))
        self.find_class(module, name)

    def refuse_stack_global(self) -> None:
        self.find_class(str(self.stack[-2])[:80], str(self.stack[-1])[:80])


_KEYS = {  # which of the values on the stack an instruction makes keys of
    "SETITEM": slice(-2, -1),
    "SETITEMS": slice(None, None, 2),
    "DICT": slice(None, None, 2),
    "ADDITEMS": slice(None),
    "FROZENSET": slice(None),
}


def _dispatch_table() -> dict[int, Any]:
    theirs = pickle._Unpickler.dispatch

    def allow(name: str) -> Any:
        def instruction(self: Any) -> None:
            for key in self.stack[_KEYS[name]]:
                if not isinstance(key, _SCALARS):
                    raise _Forbidden(f"uses a {type(key).__name__} as a key")
            theirs[_INSTRUCTIONS[name][0]](self)

        return instruction if name in _KEYS else theirs[_INSTRUCTIONS[name][0]]

    def refuse(name: str) -> Any:
        def instruction(self: Any) -> None:
            raise _Forbidden(f"uses the pickle instruction {name}, which plain data does not need")

        return instruction

    own = {
        "GLOBAL": _PlainDataUnpickler.refuse_global,
        "INST": _PlainDataUnpickler.refuse_global,
        "STACK_GLOBAL": _PlainDataUnpickler.refuse_stack_global,
    }
    allowed = _ALLOWED.split()
    return {
        code[0]: allow(name) if name in allowed else own.get(name, refuse(name)) for name, code in _INSTRUCTIONS.items()
    }


_PlainDataUnpickler.dispatch = _dispatch_table()
