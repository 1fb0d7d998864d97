"""What is wrong with an input, collected, so that a person is told all of it in one line."""

from mail.errors import UserError, first_few


class Problems:
    """What is wrong with an input, by kind, to be told at once."""

    def __init__(self) -> None:
        self.names: dict[str, list[str]] = {}

    def add(self, kind: str, name: object) -> None:
        """`kind` is a phrase that can follow a number: "images are missing in DIR"."""
        self.names.setdefault(kind, []).append(str(name))

    def counts(self) -> dict[str, int]:
        return {kind: len(names) for kind, names in self.names.items()}

    def describe(self) -> str:
        """One line: every kind with its total and the first few names."""
        return "; ".join(f"{len(names)} {kind} ({first_few(names)})" for kind, names in self.names.items())

    def most_frequent(self) -> list[tuple[str, list[str]]]:
        """Every kind with all its names, the one with most of them first."""
        return sorted(self.names.items(), key=lambda item: -len(item[1]))

    def raise_if_any(self, where: object, how_to_mend: str) -> None:
        if self.names:
            raise UserError(f"{where}: {self.describe()}. {how_to_mend}")
