"""A made vocabulary reads every script that it was made of; what no tokenizer reads is counted."""

import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from mail.errors import UserError
from mail.model import TextCoverage, check_text, load_tokenizer, tokenizer_from_texts
from mail.model.tokenization import SPECIAL, bert_tokenizer

SCRIPTS = {
    "Korean": ["파란 의자", "파란 모자", "뒤에 선 아이"],
    "Chinese": ["后面的狗", "前面的狗"],
    "Japanese": ["うしろの犬", "まえの犬", "ガラスのコップ"],
    "Ukrainian": ["їжак ліворуч", "йорж ліворуч"],
    "Hindi": ["पीला फूल", "पीली फूल", "नीचे की किताब"],
    "Tamil": ["சிவப்பு பூ", "சிவப்பி பூ"],
    "Arabic": ["القطّة السوداء", "القطة السوداء"],
    "Thai": ["หมาดำ", "หม้าดำ"],
    "Vietnamese": ["con ma", "con má", "con mà"],
    "Turkish": ["İki kız", "ıslak kız"],
    "Emoji": ["the 🦊", "the 🐻"],
}


def pieces(tokenizer: PreTrainedTokenizerBase, text: str) -> list[str]:
    return tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"])[1:-1]


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("max_words", [1000, 1], ids=["words", "characters"])
def test_every_script_is_read_whole_and_different_sentences_differ(script: str, max_words: int) -> None:
    texts = SCRIPTS[script]
    tokenizer = tokenizer_from_texts(texts, max_words)
    found = [pieces(tokenizer, text) for text in texts]
    assert all("[UNK]" not in p and p for p in found)
    assert len(set(map(tuple, found))) == len(texts)
    assert [pieces(tokenizer, unicodedata.normalize("NFD", text)) for text in texts] == found
    assert TextCoverage.of(tokenizer, texts, 40).complete


@given(st.lists(st.text(st.characters(exclude_categories=("C", "Z")), min_size=1), min_size=1))
def test_no_character_of_the_training_texts_is_unknown(texts: list[str]) -> None:
    tokenizer = tokenizer_from_texts(texts, max_words=1)
    unknown = tokenizer.unk_token_id
    assert all(unknown not in tokenizer(text)["input_ids"] for text in texts if "[" not in text)


def test_words_of_english_have_the_numbers_that_they_always_had() -> None:
    tokenizer = tokenizer_from_texts(["the left dog", "the dog, left of it"])
    letters = [chr(c) for c in range(33, 127) if not chr(c).isupper()]
    expected = [*SPECIAL, *letters, *(f"##{c}" for c in letters), "dog", "left", "the", "it", "of"]
    assert tokenizer.get_vocab() == {piece: number for number, piece in enumerate(expected)}


def test_it_is_the_same_after_it_was_saved(tmp_path: Path) -> None:
    made = tokenizer_from_texts(SCRIPTS["Korean"])
    made.save_pretrained(tmp_path)
    for loaded in (AutoTokenizer.from_pretrained(tmp_path), load_tokenizer(str(tmp_path))):
        for text in ("파란 사람 DOG", unicodedata.normalize("NFD", "파란 의자"), "의자" * 300):
            assert loaded(text)["input_ids"] == made(text)["input_ids"]


def test_a_vocabulary_of_earlier_models_is_read_as_before(tmp_path: Path) -> None:
    """A saved BERT tokenizer keeps its own normalisation: accents away, Hangul decomposed and unknown."""
    bert_tokenizer([*SPECIAL, "cafe", "의자"]).save_pretrained(tmp_path)
    assert pieces(AutoTokenizer.from_pretrained(tmp_path), "Café 의자") == ["cafe", "[UNK]"]


def test_what_is_lost_is_counted_with_an_example() -> None:
    tokenizer = tokenizer_from_texts(["a dog", "a cat"])
    texts = ["a dog", "a 犬 dog", "a dog " * 3 + "left", "a dog " * 3 + "right", "A  Dog"]
    found = TextCoverage.of(tokenizer, texts, max_length=7)
    assert (found.sentences, found.unknown_pieces, found.unknown_sentences) == (5, 1, 1)
    assert (found.cut_sentences, found.cut_pieces, found.alike) == (2, 5 + 6, 1)
    line = found.describe()
    assert "1 of 28 word pieces (3.6%) are unknown, in 1 of 5 sentences (first: '犬')" in line
    assert "2 of 5 sentences (40.0%) are longer than the 7 pieces" in line
    assert "lose their end (first: 'dog left')" in line
    assert "the same to it as another one (first: 'a dog a dog a dog left' and 'a dog a dog a dog right')" in line


def test_accents_that_a_vocabulary_does_not_tell_apart_are_said() -> None:
    found = TextCoverage.of(bert_tokenizer([*SPECIAL, "ma"]), ["ma", "má"], 40)
    assert (found.unknown_pieces, found.alike, found.alike_example) == (0, 1, ("ma", "má"))


def test_half_a_character_is_refused() -> None:
    assert check_text("the 🦊") == "the 🦊"
    with pytest.raises(UserError, match=r"'the \\udcff' is no valid Unicode \(character 5"):
        check_text("the \udcff")
