"""Word pieces. The vocabulary of the pre-trained weights, else one made from the training expressions.

A vocabulary file or hub name is needed only with pre-trained weights; a network trained from nothing is better off with
the words of its own data, and needs no download. A made vocabulary is of any script: the tokenizer itself
normalises and splits the training texts, and each of their characters is a piece, so that it reads all of them.
"""

import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import WordPiece
from transformers import (
    AutoTokenizer,
    BertTokenizer,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    XLMRobertaTokenizer,
)

from mail import addresses
from mail.errors import UserError

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
SPECIAL_PIECES = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
PIECES = ".spm"
ROLES = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
LONGEST_WORD = 10_000  # characters; scripts without spaces write a whole sentence as one


def load_tokenizer(source: str) -> PreTrainedTokenizerBase:
    """BERT's uncased tokenizer (of ViLT), or the one of a sentencepiece model (of BEiT-3).

    Args:
        source: vocab.txt or *.spm, a folder that holds one of them or what transformers saves, or a hub name.

    Raises:
        UserError: nothing there that can be read, or no vocabulary of these kinds.
    """
    source = addresses.absolute_or_name(source)
    path = Path(source)
    try:
        if (file := _vocabulary(path)) is None:
            tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(source)
            known = list(tokenizer.get_vocab())
        elif file.suffix == PIECES:
            tokenizer = sentencepiece_tokenizer(file)
            known = list(tokenizer.get_vocab())
        else:
            known = file.read_text(encoding="utf-8").splitlines()
            tokenizer = bert_tokenizer(known)  # would add what it lacks
    except Exception as error:  # the reader of a damaged file raises whatever it likes
        raise UserError(
            f"no tokenizer at {source!r} ({(str(error).splitlines() or [type(error).__name__])[0]}): give a vocab.txt, "
            "a beit3.spm, a folder with tokenizer files, or a hub name that can be reached"
        ) from None
    special = SPECIAL_PIECES if isinstance(tokenizer, XLMRobertaTokenizer) else SPECIAL
    if missing := [token for token in special if token not in known]:
        kind = "BEiT-3" if special is SPECIAL_PIECES else "BERT"
        raise UserError(f"the vocabulary at {source!r} is not {kind}'s: it has no {', '.join(missing)}")
    return tokenizer


def _vocabulary(path: Path) -> Path | None:
    """The file of a vocabulary at a path; None where transformers knows better what there is."""
    if path.is_file():
        return path
    if (path / "tokenizer.json").is_file():
        return None
    pieces = sorted(path.glob(f"*{PIECES}")) if path.is_dir() else []
    return next((file for file in (path / "vocab.txt", *pieces) if file.is_file()), None)


def sentencepiece_tokenizer(file: Path) -> PreTrainedTokenizerBase:
    """The tokenizer that BEiT-3's authors use: XLM-RoBERTa's with their pieces, `<s>` and `</s>` around a sentence."""
    with tempfile.TemporaryDirectory(prefix="mail-pieces-") as folder:  # transformers knows the file by its name
        shutil.copyfile(file, Path(folder) / XLMRobertaTokenizer.vocab_files_names["vocab_file"])
        return XLMRobertaTokenizer.from_pretrained(folder)


def tokenizer_from_texts(texts: Iterable[str], max_words: int = 8000) -> PreTrainedTokenizerBase:
    """A tokenizer whose vocabulary is the most frequent words of the texts, and characters for all other words.

    Deterministic: words by falling count, then by alphabet. Other words fall apart into single characters; one that has
    a character which is neither in the texts nor in ASCII is unknown. Accents and vowel signs are kept, and texts that
    differ only in how Unicode composes them, or in case, are the same.
    """
    splitter = _word_pieces([])
    spoken = Counter(part for text in texts for part in text.split(" "))  # so that each is looked at once
    words: Counter[str] = Counter()
    for part, count in spoken.items():
        for word, _ in splitter.pre_tokenizer.pre_tokenize_str(splitter.normalizer.normalize_str(part)):
            words[word] += count
    ranked = [w for w, _ in sorted(words.items(), key=lambda item: (-item[1], item[0]))[:max_words]]
    letters = [chr(c) for c in range(33, 127) if not chr(c).isupper()]
    starts = sorted({word[0] for word in words})
    inside = sorted({character for word in words for character in word[1:]})
    characters = [*letters, *(f"##{c}" for c in letters), *starts, *(f"##{c}" for c in inside)]
    vocabulary = list(dict.fromkeys([*SPECIAL, *characters, *ranked]))
    return PreTrainedTokenizerFast(tokenizer_object=_word_pieces(vocabulary), **dict(zip(ROLES, SPECIAL, strict=True)))


def check_text(text: str) -> str:
    """The text, if it is Unicode: no half of a surrogate pair, as a command line that is no UTF-8 leaves it.

    Raises:
        UserError: it is not.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{text[:40]!r} is no valid Unicode (character {error.start + 1} stands for a broken byte or for half of a "
            "character): write it in UTF-8"
        ) from None
    return text


def _word_pieces(vocabulary: list[str]) -> Tokenizer:
    """BERT's way of cutting words into pieces, with a normalisation that no language loses letters by.

    BERT's own takes all non-spacing marks away, and with them vowels of Hindi, tones of Vietnamese and, as it leaves
    Hangul decomposed, every syllable of Korean.
    """
    ids = {piece: number for number, piece in enumerate(vocabulary)}
    _, unknown, first, last, _ = SPECIAL
    made = Tokenizer(WordPiece(ids, unk_token=unknown, max_input_chars_per_word=LONGEST_WORD))
    plain = normalizers.BertNormalizer(clean_text=True, handle_chinese_chars=True, strip_accents=False, lowercase=True)
    # composed again after lower case, which leaves the dot of a Turkish capital I on its own
    made.normalizer = normalizers.Sequence([normalizers.NFC(), plain, normalizers.NFC()])
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece(prefix="##")
    if vocabulary:
        ends = [(token, ids[token]) for token in (first, last)]
        made.post_processor = processors.TemplateProcessing(single=f"{first} $A {last}", special_tokens=ends)
    return made


def bert_tokenizer(vocabulary: list[str]) -> PreTrainedTokenizerBase:
    """BERT uncased tokenizer of a vocabulary, one word piece a line, in order of their ids."""
    return BertTokenizer(vocab={word: i for i, word in enumerate(vocabulary)}, do_lower_case=True)
