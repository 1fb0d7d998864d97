"""Word pieces. BERT's own vocabulary where it is at hand, else one made from the training expressions.

A vocabulary file or hub name is needed only with pre-trained weights; a network trained from nothing is better off with
the words of its own data, and needs no download.
"""

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from transformers import AutoTokenizer, BertTokenizer, PreTrainedTokenizerBase

from mail import addresses
from mail.errors import UserError

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def load_tokenizer(source: str) -> PreTrainedTokenizerBase:
    """BERT uncased tokenizer of a vocabulary file, a folder or a hub name.

    Raises:
        UserError: nothing there that can be read, or no vocabulary of BERT's kind.
    """
    source = addresses.absolute_or_name(source)
    path = Path(source)
    file = path if path.is_file() else path / "vocab.txt"
    try:
        if file.is_file() and not (path / "tokenizer.json").is_file():
            known = file.read_text(encoding="utf-8").splitlines()
            tokenizer = bert_tokenizer(known)  # would add what it lacks
        else:
            tokenizer = AutoTokenizer.from_pretrained(source)
            known = list(tokenizer.get_vocab())
    except Exception as error:  # the reader of a damaged file raises whatever it likes
        raise UserError(
            f"no tokenizer at {source!r} ({(str(error).splitlines() or [type(error).__name__])[0]}): give a vocab.txt, "
            "a folder with tokenizer files, or a hub name that can be reached"
        ) from None
    if missing := [token for token in SPECIAL if token not in known]:
        raise UserError(f"the vocabulary at {source!r} is not BERT's: it has no {', '.join(missing)}")
    return tokenizer


def tokenizer_from_texts(texts: Iterable[str], max_words: int = 8000) -> PreTrainedTokenizerBase:
    """A tokenizer whose vocabulary is the most frequent words of the texts, and letters for all other words.

    Deterministic: words by falling count, then by alphabet. Unknown words fall apart into single characters.
    """
    words: Counter[str] = Counter()
    for text in texts:
        words.update(re.findall(r"\w+|[^\w\s]", text.lower()))
    ranked = [w for w, _ in sorted(words.items(), key=lambda item: (-item[1], item[0]))[:max_words]]
    letters = [chr(c) for c in range(33, 127) if not chr(c).isupper()]
    vocabulary = list(dict.fromkeys([*SPECIAL, *letters, *(f"##{c}" for c in letters), *ranked]))
    return bert_tokenizer(vocabulary)


def bert_tokenizer(vocabulary: list[str]) -> PreTrainedTokenizerBase:
    """BERT uncased tokenizer of a vocabulary, one word piece a line, in order of their ids."""
    return BertTokenizer(vocab={word: i for i, word in enumerate(vocabulary)}, do_lower_case=True)
