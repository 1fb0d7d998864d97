"""Word pieces. BERT's own vocabulary where it is at hand, else one made from the training expressions.

A vocabulary file or hub name is needed only with pre-trained weights; a network trained from nothing is better off with
the words of its own data, and needs no download. A made vocabulary is of any script: the tokenizer itself
normalises and splits the training texts, and each of their characters is a piece, so that it reads all of them.
"""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import WordPiece
from transformers import AutoTokenizer, BertTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from mail import addresses
from mail.errors import UserError

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
ROLES = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
LONGEST_WORD = 10_000  # characters; scripts without spaces write a whole sentence as one


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
