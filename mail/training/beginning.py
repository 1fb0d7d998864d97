"""What a training begins with: the recipe, the network, its vocabulary, and whose weights."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from mail import addresses
from mail.errors import UserError, first_few
from mail.model import MailConfig, MailProcessor, find_preset, load_tokenizer, tokenizer_from_texts
from mail.model.continuing import continued_config, extend_tokenizer
from mail.model.presets import PRESETS, Preset
from mail.model.pretrained import check_pretrained
from mail.training.parent import Parent

# a made vocabulary holds, besides words, special tokens and single characters
CHARACTERS = 200
SHOWN_WORDS = 8
OWN_NETWORK = ("preset", "pretrained", "tokenizer")


@dataclass(frozen=True)
class Beginning:
    """What is there before the first step.

    Attributes:
        network: the network's configuration. processor: that goes with it.
        pretrained: weights of the tower (a file or folder from any working directory, or a hub name), or None.
        fetched: what comes from the Hugging Face hub, by its names there. remarks: lines that a person should see.
    """

    network: MailConfig
    processor: MailProcessor
    pretrained: str | None = None
    fetched: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()

    @classmethod
    def of(cls, options: Any, preset: Preset, parent: Parent | None, spoken: Sequence[str]) -> "Beginning":
        """What the options ask for.

        Args:
            options: as of `RunPlan.make`. preset: `recipe`'s. parent: the model to go on from. spoken: training texts.

        Raises:
            UserError: the options do not go together.
        """
        if parent is not None:
            return cls._continued(options, parent, spoken)
        pretrained, vocabulary = _named(options, preset)
        network, processor = _network(options, preset, spoken, pretrained, vocabulary)
        fetched = [name for name in dict.fromkeys([pretrained, vocabulary]) if name and not name.startswith("/")]
        return cls(network, processor, pretrained, tuple(fetched))

    @classmethod
    def _continued(cls, options: Any, parent: Parent, spoken: Sequence[str]) -> "Beginning":
        if given := [f"--{name}" for name in OWN_NETWORK if getattr(options, name) is not None]:
            raise UserError(f"{', '.join(given)}: network and vocabulary are those of the model --from: leave it out")
        with_masks = parent.network.uses_instances
        if with_masks != (options.proposals == "table"):
            reads = "reads instance masks" if with_masks else "reads no instance masks"
            mend = "leave it out" if with_masks else "--proposals none goes with it"
            raise UserError(f"--proposals {options.proposals}: the model --from {reads}: {mend}")
        tokenizer, new = extend_tokenizer(parent.processor.tokenizer, spoken)
        network = continued_config(parent.network, options.model.given(), len(tokenizer))
        remarks = []
        if new:
            remarks.append(
                f"{len(new)} words are new to the model and are added to its {parent.network.vocab_size} word pieces: "
                f"{first_few(new, SHOWN_WORDS)}"
            )
        if network.max_instances != parent.network.max_instances:
            remarks.append(f"instance slots: {network.max_instances} instead of {parent.network.max_instances}")
        processor = MailProcessor.for_config(tokenizer, network)
        processor.no_target_threshold = parent.processor.no_target_threshold
        return cls(network, processor, remarks=tuple(remarks))

    def check_pretrained(self) -> str | None:
        """What begins with the pre-trained weights and what does not, in a line; None where there are none.

        Raises:
            UserError: the network cannot begin with them.
        """
        if self.pretrained is None:
            return None
        new = Counter(name.partition(".")[0] for name in check_pretrained(self.network, self.pretrained))
        parts = ", ".join(f"{part} ({count} tensors)" for part, count in sorted(new.items()))
        return f"words, patches and blocks begin with the weights of {self.pretrained}; new are {parts}"


def recipe(options: Any, parent: Parent | None) -> Preset:
    """The preset that the options name, or what follows from the model to go on from.

    Raises:
        UserError: there is neither, or no such preset.
    """
    if parent is not None:
        return parent.recipe()
    if options.preset is None:
        raise UserError(f"--preset is missing: name a network ({', '.join(PRESETS)}), or a model with --from MODEL")
    preset = find_preset(options.preset)
    if options.pretrained == "none":  # a tower that is new as well learns as all else does
        return replace(preset, frozen_fraction=0.0, tower_rate=1.0, layer_decay=1.0)
    return preset


def _named(options: Any, preset: Preset) -> tuple[str | None, str | None]:
    """Folders or hub names of the weights and of the vocabulary to begin with; None for none."""
    pretrained = preset.pretrained if options.pretrained is None else options.pretrained
    if pretrained is None and preset.published is not None:
        raise UserError(
            f"--preset {options.preset} begins with published weights that no program fetches: give --pretrained "
            f"{preset.published} with beit3.spm beside it (see docs/model.md for where they are), or --pretrained none"
        )
    pretrained = None if pretrained in (None, "none") else addresses.absolute_or_name(pretrained)
    own = pretrained if options.pretrained else preset.tokenizer
    own = os.path.dirname(own) if own and own.endswith(".pth") else own
    vocabulary = own if options.tokenizer is None else options.tokenizer
    return pretrained, None if vocabulary in (None, "none") else addresses.absolute_or_name(str(vocabulary))


def _network(
    options: Any, preset: Preset, spoken: Sequence[str], pretrained: str | None, vocabulary: str | None
) -> tuple[MailConfig, MailProcessor]:
    config = preset.config()
    values = options.model.given()
    if options.proposals == "none":
        values["mask_modality"] = "none"
    if vocabulary is None:
        if pretrained is not None:
            raise UserError("--tokenizer none does not go with pre-trained weights, which know their own words")
        tokenizer = tokenizer_from_texts(spoken, max(1, config.vocab_size - CHARACTERS))
    else:
        tokenizer = load_tokenizer(vocabulary)
    if pretrained is not None and tokenizer.pad_token_id != config.pad_token_id:
        raise UserError(f"--tokenizer {vocabulary} is not the vocabulary of weights of a {config.tower}: leave it out")
    values |= {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    try:
        network = MailConfig(**{**config.to_dict(), **values})
    except (ValueError, TypeError) as error:
        raise UserError(f"this network cannot be: {error}") from None
    return network, MailProcessor.for_config(tokenizer, network)
