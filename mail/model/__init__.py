"""The trimodal network: configuration, processor and model, in transformers' own terms.

Importing this package registers them with the Auto classes, so `AutoModel.from_pretrained(FOLDER)` knows `mail`.
"""

from transformers import AutoConfig, AutoModel, AutoProcessor

from mail.model.configuration import MailConfig
from mail.model.modeling import MailForReferringSegmentation, MailOutput
from mail.model.post_processing import Segmentation
from mail.model.presets import describe, find_preset
from mail.model.processing import MailProcessor
from mail.model.text_coverage import TextCoverage
from mail.model.tokenization import check_text, load_tokenizer, tokenizer_from_texts

AutoConfig.register("mail", MailConfig, exist_ok=True)
AutoModel.register(MailConfig, MailForReferringSegmentation, exist_ok=True)
AutoProcessor.register(MailConfig, MailProcessor, exist_ok=True)

__all__ = [
    "MailConfig",
    "MailForReferringSegmentation",
    "MailOutput",
    "MailProcessor",
    "Segmentation",
    "TextCoverage",
    "check_text",
    "describe",
    "find_preset",
    "load_tokenizer",
    "tokenizer_from_texts",
]
