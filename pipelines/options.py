"""What the options of all stages have in common: those that name a place are read once, by `mail.addresses`.

A config marks such a field by its type. Whoever makes the config, the command line or a caller in Python, finds the
address in it absolute, and a wrong one is refused with the option's name.
"""

import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

from tyro.constructors import PrimitiveConstructorSpec

from mail import addresses
from mail.data import files
from mail.data.origins import is_collection
from mail.errors import UserError


@dataclasses.dataclass(frozen=True)
class Place:
    """What the text of an option may be.

    Attributes:
        local: it must be on this machine.
        named: it may be the name of a model on a hub or in MLflow.
        words: what is said instead, and is neither.
        collection: it may be the name of a collection of images.
        written: it is written, and may not be what another option of the stage reads.
    """

    local: bool = False
    named: bool = False
    words: tuple[str, ...] = ()
    collection: bool = False
    written: bool = False

    def read(self, value: str | os.PathLike[str]) -> str | Path:
        """The text as it was if it is a word or a name; else the address, absolute; a `Path` if it can only be one."""
        text = os.fspath(value)
        if self._is_word(text):
            return text
        address = addresses.absolute_or_name(text) if self.named else addresses.absolute(text)
        path = addresses.local_path(address) if self.local else None  # refuses what is somewhere else
        return address if path is None or self.named else path

    def is_place(self, read: str | Path) -> bool:
        """Whether what `read` gave is an address, and not a word or a name."""
        return not self._is_word(str(read)) and (not self.named or os.path.isabs(read))

    def _is_word(self, text: str) -> bool:
        return text in self.words or (self.collection and is_collection(text))


def as_typed(metavar: str = "STR") -> PrimitiveConstructorSpec[Any]:
    """What tyro makes of the text: nothing yet (a `Path` would make one slash of the two in s3://)."""
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=metavar,
        instance_from_str=lambda given: given[0],
        is_instance=lambda value: isinstance(value, str | os.PathLike),
        str_from_instance=lambda value: [os.fspath(value)],
    )


Address = Annotated[str, Place(), as_typed()]
Seen = Annotated[str, Place(words=("none",), collection=True), as_typed("FILE|STORE|COLLECTION")]
LocalPath = Annotated[Path, Place(local=True), as_typed("PATH")]
LocalPathOrParent = Annotated[Path, Place(local=True, words=("parent",)), as_typed("PATH|parent")]
Target = Annotated[str, Place(written=True), as_typed()]
LocalTarget = Annotated[Path, Place(local=True, written=True), as_typed("PATH")]
ModelAddress = Annotated[str, Place(local=True, named=True), as_typed()]
HubName = Annotated[str, Place(local=True, named=True, words=("none",)), as_typed()]


def place_of(hint: Any) -> Place | None:
    """The mark inside of a field's type, through `| None` and `tuple[..., ...]`; None for other options."""
    if isinstance(hint, Place):
        return hint
    return next((found for part in get_args(hint) if (found := place_of(part)) is not None), None)


@dataclasses.dataclass(kw_only=True)
class Options:
    """Base of every config."""

    def __post_init__(self) -> None:
        outputs: dict[str, str | Path] = {}
        inputs: dict[str, str | Path] = {}
        for name, place in self._places():
            option, value = f"--{name.rstrip('_').replace('_', '-')}", getattr(self, name)
            try:
                read = tuple(map(place.read, value)) if isinstance(value, tuple) else place.read(value)
            except UserError as error:
                raise UserError(f"{option} {error}") from None
            setattr(self, name, read)
            found = read if isinstance(read, tuple) else (read,)
            named = {option if len(found) == 1 else f"{option} {one}": one for one in found if place.is_place(one)}
            (outputs if place.written else inputs).update(named)
        files.check_apart(outputs, inputs)

    def asked(self, *without: str) -> dict[str, Any]:
        """What was asked for, as JSON has it: all options but those by which nothing else is made."""
        given = {k: v for k, v in dataclasses.asdict(self).items() if k not in ("dry_run", *without)}
        return dict(json.loads(json.dumps(given, default=str)))

    def targets(self) -> list[str]:
        """The places that it writes, of those that are given."""
        return [str(getattr(self, name)) for name, place in self._places() if place.written]

    def check_stores(self) -> None:
        """Asks the object stores that options name whether they are there, before anything heavy is loaded.

        Raises:
            UserError: one does not answer, or has no such bucket.
        """
        for name, place in self._places():
            value = getattr(self, name)
            for address in value if isinstance(value, tuple) else (value,):
                if not place.local and place.is_place(address) and addresses.remote_path(address) is not None:
                    files.resolve(address)

    def _places(self) -> Iterator[tuple[str, Place]]:
        """The options that name a place, of those that are given."""
        hints = get_type_hints(type(self), include_extras=True)
        for field in dataclasses.fields(self):
            place = place_of(hints[field.name])
            if place is not None and getattr(self, field.name) is not None:
                yield field.name, place
