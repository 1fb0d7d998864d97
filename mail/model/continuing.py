"""A network that goes on from another one's weights, with more words and more room than that one had.

Every tensor is the other's. Where there are more rows than it has, the first ones are: new words begin as untrained
words do, new text positions as the last one, new mask channels at zero (so that the answers are still the other's).
"""

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast, XLMRobertaTokenizer

from mail.errors import UserError
from mail.model.configuration import MailConfig
from mail.model.folder import load_model
from mail.model.modeling import MailForReferringSegmentation
from mail.model.tokenization import ROLES, check_text

MOST_NEW_WORDS = 8000
# what fits another value without another network; everything else is a part of the weights' meaning
CHANGEABLE = ("image_size", "max_instances", "max_text_length", "pixel_share")
GROWING = ("max_text_length",)
_INSIDE = "##"


def extend_tokenizer(
    tokenizer: PreTrainedTokenizerBase, texts: Iterable[str]
) -> tuple[PreTrainedTokenizerBase, list[str]]:
    """A tokenizer that also has the words of `texts` that this one does not know, or spells letter by letter.

    What it had keeps its number; new pieces follow: words by falling count, then letters that it could not read. A
    sentencepiece vocabulary (of BEiT-3) stays as it is: its pieces spell nearly everything.

    Returns:
        The tokenizer (the same, if nothing is new), and the new words.

    Raises:
        UserError: a text is no valid Unicode.
    """
    spoken = Counter(part for text in texts for part in check_text(text).split(" "))
    if isinstance(tokenizer, XLMRobertaTokenizer):
        return tokenizer, []
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.no_padding()  # which the last call left on, and the folder keeps
    backend.no_truncation()
    words: Counter[str] = Counter()
    for part, count in spoken.items():
        plain = backend.normalizer.normalize_str(part)
        for word, _ in backend.pre_tokenizer.pre_tokenize_str(plain):
            words[word] += count
    ranked = [word for word, _ in sorted(words.items(), key=lambda item: (-item[1], item[0]))]
    new = [word for word in ranked if not _is_read(tokenizer, backend, word)][:MOST_NEW_WORDS]
    if not new:
        return tokenizer, []
    state = json.loads(backend.to_str())
    pieces: dict[str, int] = state["model"]["vocab"]
    starts, inside = {word[0] for word in new}, {_INSIDE + letter for word in new for letter in word[1:]}
    for piece in (*new, *sorted(starts), *sorted(inside)):
        pieces.setdefault(piece, len(pieces))
    roles = {role: getattr(tokenizer, role) for role in ROLES}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(state)), **roles), new


def _is_read(tokenizer: PreTrainedTokenizerBase, backend: Tokenizer, word: str) -> bool:
    """Whether a word is something to the network: known as a whole, or in pieces of more than a letter."""
    found = backend.encode(word, add_special_tokens=False)
    if not found.ids or tokenizer.unk_token_id in found.ids:
        return False
    return len(found.ids) == 1 or any(len(piece.removeprefix(_INSIDE)) > 1 for piece in found.tokens)


def continued_config(parent: MailConfig, changes: dict, vocabulary: int) -> MailConfig:
    """The parent's network with a larger vocabulary and other options.

    Args:
        changes: fields of the config; `CHANGEABLE` ones and weights of losses.

    Raises:
        UserError: one of the changes would be another network.
    """
    wrong = [name for name in changes if name not in CHANGEABLE and not name.startswith("loss_")]
    if parent.mask_modality == "channels" and changes.get("max_instances", parent.max_instances) < parent.max_instances:
        wrong.append("max_instances")
    wrong += [name for name in GROWING if changes.get(name, getattr(parent, name)) < getattr(parent, name)]
    if wrong:
        named = ", ".join(f"--model.{name.replace('_', '-')}" for name in wrong)
        raise UserError(
            f"{named}: a training that goes on from a model keeps its network; what may change is "
            f"{', '.join('--model.' + name.replace('_', '-') for name in CHANGEABLE)} (text length and mask channels "
            "only grow) and the weights of losses"
        )
    try:
        return MailConfig(**{**parent.to_dict(), **changes, "vocab_size": vocabulary})
    except (ValueError, TypeError) as error:
        raise UserError(f"this network cannot be: {error}") from None


def continue_from(model: MailForReferringSegmentation, folder: Path) -> None:
    """Fills a network with the weights of the MODEL in a local folder; see the module's text.

    Raises:
        UserError: the folder is damaged, or the weights are of another network.
    """
    parent, _ = load_model(folder)
    theirs = parent.state_dict()
    wrong = []
    with torch.no_grad():
        for name, own in model.state_dict().items():
            if name not in theirs or not _fill(name, own, theirs[name]):
                wrong.append(name)
    if wrong:
        raise UserError(f"the weights of {folder} are another network's, {len(wrong)} tensors, first: {wrong[0]}")


def _fill(name: str, own: Tensor, given: Tensor) -> bool:
    """Copies a tensor into one that may have more rows (of words, positions) or input channels (of masks)."""
    if own.shape == given.shape:
        own.copy_(given)
        return True
    if name == "mask_channels.weight" and own.shape[1] > given.shape[1]:
        own.zero_()
        own[:, : given.shape[1]] = given
        return True
    grows = name in ("text.word_embeddings.weight", "text.position_embeddings.weight")
    if not grows or own.shape[1:] != given.shape[1:] or len(own) < len(given):
        return False
    own[: len(given)] = given
    if name == "text.position_embeddings.weight":
        own[len(given) :] = given[-1]
    return True
