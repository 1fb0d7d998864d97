"""What a training begins with: the recipe, the network, its vocabulary, and whose weights."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mail import addresses
from mail.errors import UserError, first_few
from mail.model import MailConfig, MailProcessor, find_preset, load_tokenizer, tokenizer_from_texts
from mail.model.continuing import continued_config, extend_tokenizer
from mail.model.presets import Preset
from mail.model.vilt_weights import check_vilt
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
        pretrained: ViLT weights (a folder from any working directory, or a hub name), None for none.
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
        return cls(network, MailProcessor.for_config(tokenizer, network), remarks=tuple(remarks))

    def check_pretrained(self) -> None:
        """Raises UserError where the network cannot begin with the pre-trained weights."""
        if self.pretrained is not None:
            check_vilt(self.network, self.pretrained)


def recipe(options: Any, parent: Parent | None) -> Preset:
    """The preset that the options name, or what follows from the model to go on from.

    Raises:
        UserError: there is neither, or no such preset.
    """
    if parent is not None:
        return parent.recipe()
    if options.preset is None:
        raise UserError("--preset is missing: name a network (tiny, vilt-b32, vilt-b16), or a model with --from MODEL")
    return find_preset(options.preset)


def _named(options: Any, preset: Preset) -> tuple[str | None, str | None]:
    """Folders or hub names of the weights and of the vocabulary to begin with; None for none."""
    pretrained = preset.pretrained if options.pretrained is None else options.pretrained
    pretrained = None if pretrained in (None, "none") else addresses.absolute_or_name(pretrained)
    own = pretrained if options.pretrained else preset.tokenizer
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
            raise UserError("--tokenizer none does not go with pre-trained weights: they know BERT's vocabulary")
        tokenizer = tokenizer_from_texts(spoken, max(1, config.vocab_size - CHARACTERS))
    else:
        tokenizer = load_tokenizer(vocabulary)
    values["vocab_size"] = len(tokenizer)
    try:
        network = MailConfig(**{**config.to_dict(), **values})
    except (ValueError, TypeError) as error:
        raise UserError(f"this network cannot be: {error}") from None
    return network, MailProcessor.for_config(tokenizer, network)
