"""What is left of sentences as a network reads them: what a tokenizer does not know, cuts off or cannot tell apart."""

import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from mail.model.tokenization import check_text

CHUNK = 4096  # sentences that are tokenized at once
SHOWN = 40  # characters of an example


@dataclass(frozen=True)
class TextCoverage:
    """How much of some sentences reaches the network.

    Attributes:
        sentences, pieces: their number, and that of their word pieces.
        max_length: pieces that the network takes of a sentence, its two ends counted.
        unknown_pieces: pieces that stand for anything; unknown_sentences: the sentences with one, or with no piece.
        cut_sentences: those that are longer than `max_length`; cut_pieces: the pieces that they lose.
        alike: different sentences (case and spaces apart) that become the same input as another one.
        unknown_example, cut_example, alike_example: words that are unknown, an end that is lost, two such sentences.
    """

    sentences: int
    pieces: int
    max_length: int
    unknown_pieces: int = 0
    unknown_sentences: int = 0
    cut_sentences: int = 0
    cut_pieces: int = 0
    alike: int = 0
    unknown_example: str | None = None
    cut_example: str | None = None
    alike_example: tuple[str, str] | None = None

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, texts: Iterable[str], max_length: int) -> "TextCoverage":
        """Tokenizes every different sentence once. Raises UserError where one is no valid Unicode."""
        spoken = Counter(map(check_text, texts))
        known = list(spoken)
        totals: Counter[str] = Counter()
        unknown, cut, alike = None, None, None
        read_as: dict[tuple[int, ...], str] = {}
        for start in range(0, len(known), CHUNK):
            some = known[start : start + CHUNK]
            for text, ids in zip(some, tokenizer(some, verbose=False)["input_ids"], strict=True):
                count, missing, over = spoken[text], ids.count(tokenizer.unk_token_id), max(0, len(ids) - max_length)
                nothing = len(ids) <= tokenizer.num_special_tokens_to_add()
                totals.update(sentences=count, pieces=count * (len(ids) - tokenizer.num_special_tokens_to_add()))
                if missing or nothing:
                    totals.update(unknown_pieces=count * missing, unknown_sentences=count)
                    unknown = unknown or text
                if over:
                    totals.update(cut_sentences=count, cut_pieces=count * over)
                    cut = cut or text
                plain = " ".join(unicodedata.normalize("NFC", text).lower().split())
                other = read_as.setdefault((*ids[: max_length - 1], ids[-1]), plain)
                if other != plain:
                    totals["alike"] += 1
                    alike = alike or (other, plain)
        return cls(
            **{key: totals[key] for key in ("sentences", "pieces")},
            max_length=max_length,
            **{
                key: totals[key]
                for key in ("unknown_pieces", "unknown_sentences", "cut_sentences", "cut_pieces", "alike")
            },
            unknown_example=None if unknown is None else _unknown_words(tokenizer, unknown),
            cut_example=None if cut is None else _lost_end(tokenizer, cut, max_length),
            alike_example=alike,
        )

    @property
    def complete(self) -> bool:
        """Whether nothing is lost."""
        return not (self.unknown_sentences or self.cut_sentences or self.alike)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def describe(self) -> str:
        """One line with counts, shares and examples."""
        if self.complete:
            return f"all words of {self.sentences} sentences are read: no piece of {self.pieces} is unknown or cut off"
        lost = []
        if self.unknown_sentences:
            share = self.unknown_pieces / max(1, self.pieces)
            lost.append(
                f"{self.unknown_pieces} of {self.pieces} word pieces ({share:.1%}) are unknown, in "
                f"{self.unknown_sentences} of {self.sentences} sentences (first: {self.unknown_example!r})"
            )
        if self.cut_sentences:
            share = self.cut_sentences / self.sentences
            lost.append(
                f"{self.cut_sentences} of {self.sentences} sentences ({share:.1%}) are longer than the "
                f"{self.max_length} pieces that the network takes and lose their end (first: {self.cut_example!r})"
            )
        if self.alike_example:
            first, second = (text[-SHOWN:] for text in self.alike_example)
            lost.append(f"{self.alike} sentences are the same to it as another one (first: {first!r} and {second!r})")
        return "; ".join(lost)


def _unknown_words(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    encoded = tokenizer(text, return_offsets_mapping=True, verbose=False)
    pairs = zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
    words = [text[start:end] for piece, (start, end) in pairs if piece == tokenizer.unk_token_id]
    return " ".join(words or [text])[:SHOWN]


def _lost_end(tokenizer: PreTrainedTokenizerBase, text: str, max_length: int) -> str:
    offsets = tokenizer(text, return_offsets_mapping=True, verbose=False)["offset_mapping"]
    lost = text[offsets[max_length - 1][0] :]
    return lost if len(lost) <= SHOWN else f"{lost[:SHOWN]}..."
