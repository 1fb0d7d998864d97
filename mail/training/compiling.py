"""torch.compile of a network in training: its parts, in place, each for the few shapes that batches have.

A part is compiled when a shape is first met, which takes tens of seconds. `MailProcessor.collate` pads words and
instance slots to a few lengths, and `padded` the images to a multiple, so that all shapes are met soon after the start.
Parts, because the whole network takes minutes: one block stands for all of the encoder's, and another number of words
costs that block alone. Fixed shapes, because Inductor's code for symbolic ones fails in some versions, and is slower to
make and to run. On a GPU the passes are recorded as well (`mail.training.recording`): launching so many parts takes
longer than running them.
"""

import inspect
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Self, TypeVar

import torch
from torch import nn

from mail.errors import UserError, on_one_line
from mail.model import MailForReferringSegmentation
from mail.training.recording import Recorder
from mail.training.step import TrainingBatch

Result = TypeVar("Result")
WORTH_COMPILING = 2000  # steps that earn back on a GPU what compiling takes, about a minute
IMAGE_STEP = 8
OF_IMAGES = tuple(inspect.signature(MailForReferringSegmentation.encode_images).parameters)[1:]
MOST_SHAPES = 8  # that a network is compiled for: no more than PyTorch keeps of a function


def is_compiled(option: str, steps: int, device: torch.device) -> bool:
    """Whether a network is compiled for so many steps, by `--compile`."""
    return option in ("yes", "required") or (option == "auto" and device.type == "cuda" and steps >= WORTH_COMPILING)


def compile_parts(model: Any) -> None:
    """Lets what is made of images, the encoder's blocks, the decoder and the losses be compiled when first called."""
    for part in (*model.encoder.blocks, model.decoder):
        part.compile(dynamic=False, fullgraph=True)
    for owner, name in ((model, "encode_images"), (model, "loss_terms"), (model.encoder, "attention_bias")):
        setattr(owner, name, torch.compile(getattr(owner, name), dynamic=False, fullgraph=True))


def padded(part: TrainingBatch) -> TrainingBatch:
    """The same with its last image repeated to a multiple of `IMAGE_STEP` images, which no expression asks about."""
    pixels = part.tensors["pixel_values"]
    images = len(pixels)
    if images % IMAGE_STEP == 0:
        return part
    index = torch.arange(-(-images // IMAGE_STEP) * IMAGE_STEP, device=pixels.device).clamp_(max=images - 1)
    return TrainingBatch(part.plan, {k: v[index] if k in OF_IMAGES else v for k, v in part.tensors.items()})


@contextmanager
def eagerly() -> Iterator[None]:
    """What is called inside runs as it is written: validation has batches of any shape."""
    with torch.compiler.set_stance("force_eager"):
        yield


class Compiling:
    """Takes the steps of a network whose parts are compiled, says what that costs, and does without if it fails.

    A context, at whose end nothing in the process is other than before. Steps of shapes beyond the first `MOST_SHAPES`
    are taken as the network is written.

    Args:
        model: its parts are compiled in place; None: nothing is.
        say: tells a person a line. required: a compiler that fails ends the training. bf16: autocast on a GPU.
    """

    def __init__(
        self,
        model: nn.Module | None,
        say: Callable[[str], object],
        *,
        required: bool = False,
        bf16: bool = False,
    ):
        self._model, self._say, self._required, self._bf16 = model, say, required, bf16
        self._recorder: Recorder | None = None
        self._seen: set[tuple[int, int, int, int]] = set()
        self._until_the_end = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._until_the_end.close()

    def take(self, parts: Sequence[TrainingBatch], step: Callable[[Sequence[TrainingBatch]], Result]) -> Result:
        """Calls `step` with these parts; once more where the compiler fails.

        Raises:
            UserError: the compiler failed and is required.
        """
        if self._model is None:
            return step(parts)
        filled = [padded(part) for part in parts]
        new = {_shape(part) for part in filled} - self._seen
        if not new:
            return step(filled)
        if len(self._seen) + len(new) > MOST_SHAPES:
            with eagerly():
                return step(parts)
        rows, words, slots, images = max(new)
        self._say(
            f"compiling the network for {rows} expressions of {words} words, {images} images of {slots} instances"
        )
        begun = time.monotonic()
        try:
            if not self._seen:
                compile_parts(self._model)
                if next(self._model.parameters()).is_cuda:
                    self._recorder = Recorder(self._model, self._bf16)
                    self._until_the_end.callback(self._recorder.close)
            if self._recorder is not None:
                for part in filled:
                    self._recorder.record(part)
            result = step(filled)
        except (UserError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            why = f"{type(error).__name__}: {on_one_line(str(error).strip().partition(chr(10))[0])}"
            if self._required:
                raise UserError(f"the network cannot be compiled, and --compile required is given ({why})") from error
            self._say(f"the network cannot be compiled, so it is trained as it is ({why})")
            self._model = None
            self._until_the_end.close()
            self._until_the_end.enter_context(eagerly())
            return step(parts)
        self._seen |= new
        self._say(f"compiled in {time.monotonic() - begun:.0f} s")
        return result


def _shape(part: TrainingBatch) -> tuple[int, int, int, int]:
    """Expressions, words, instance slots and images: what the compiled parts depend on."""
    slots = part.tensors.get("instance_valid")
    rows, words = part.tensors["input_ids"].shape
    return rows, words, 0 if slots is None else slots.shape[1], len(part.tensors["pixel_values"])
