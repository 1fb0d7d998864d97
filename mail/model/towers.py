"""The pre-trained encoders that the network can be built as, and all that is particular to one of them.

Everything else of the network is the same for each: embeddings of patches and instances, their geometry, the decoder.
`pretrained.py` fills a tower with what its authors published.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from mail.model.configuration import MailConfig
from mail.model.embeddings import Interpolation, TextEmbeddings, corners_aligned, cubic
from mail.model.encoder import Encoder, ViltEncoder
from mail.model.multiway import MultiwayEncoder, WordEmbeddings


@dataclass(frozen=True)
class Tower:
    """An encoder and what feeds it.

    Attributes:
        text: makes the module from word pieces (N, T) to (N, T, d). encoder: makes the encoder.
        interpolation: of the positions of patches.
    """

    text: Callable[[MailConfig], nn.Module]
    encoder: Callable[[MailConfig], Encoder]
    interpolation: Interpolation


TOWERS = {
    "vilt": Tower(TextEmbeddings, ViltEncoder, corners_aligned),
    "beit3": Tower(WordEmbeddings, MultiwayEncoder, cubic),
}
