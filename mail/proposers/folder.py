"""The proposer folder: reading and writing it, and the id of what it would output. Needs no torch."""

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from mail.data import files
from mail.errors import UserError

if TYPE_CHECKING:
    from mail.proposals import Proposals
    from mail.proposers.paste import Detections

FORMAT_VERSION = 1
OUTPUT_VERSION = 1  # raise it when the code changes what a proposer outputs for the same weights and settings
ARCHITECTURES = ("tiny", "r50-fpn", "r50-fpn-v2")


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """What the weights were trained for."""

    architecture: str = "tiny"
    categories: tuple[tuple[int, str], ...] = ((1, "thing"),)
    """(id, name) of each foreground class, in the order of the network's outputs; one: class-agnostic."""

    min_size: int = 128
    """Images are resized so that the shorter side has this many pixels ..."""

    max_size: int = 144
    """... unless the longer one would have more than this."""

    frozen_norm: bool = False
    """Batch norm with fixed statistics in the ResNet (as in torchvision's published weights)."""

    def __post_init__(self) -> None:
        if self.architecture not in ARCHITECTURES:
            raise UserError(f"no proposer architecture {self.architecture!r}: there are {', '.join(ARCHITECTURES)}")

    @property
    def name(self) -> str:
        """What proposers of this network are called."""
        return f"maskrcnn-{self.architecture}"


@dataclass(frozen=True, kw_only=True)
class Mask2FormerNetwork:
    """A Mask2Former of transformers: everything but the weights that its checkpoint folder says."""

    config: dict[str, Any]
    """`config.json` of the checkpoint."""

    processor: dict[str, Any]
    """`preprocessor_config.json`: sizes, mean and standard deviation."""

    categories: tuple[tuple[int, str], ...]
    """(id, name) of each class but the last, "nothing", in the order of the network's outputs."""

    architecture: str = "mask2former"

    @property
    def name(self) -> str:
        backbone = (self.config.get("backbone_config") or {}).get("model_type", "backbone")
        return f"mask2former-{backbone}"


Network = NetworkConfig | Mask2FormerNetwork


@dataclass(frozen=True, kw_only=True)
class SelectionConfig:
    """Which of the network's detections become proposals."""

    score_threshold: float = 0.05
    """Detections with score >= this are kept."""

    max_instances: int = 24
    """At most this many an image, best first, after duplicates were removed."""

    box_nms: float = 0.7
    """Of two boxes of a class that overlap with a larger IoU, the worse goes before masks are computed."""

    duplicate_iou: float = 0.8
    """Of two masks of any classes that overlap with a larger IoU, the worse goes."""

    mask_threshold: float = 0.5
    """A pixel belongs to the mask if its probability is >= this."""

    def __post_init__(self) -> None:
        if not 0 <= self.score_threshold <= 1 or self.max_instances < 1:
            raise UserError(
                f"score threshold {self.score_threshold} must lie in 0..1, max instances {self.max_instances} above 0"
            )


@dataclass(frozen=True)
class ProposerFolder:
    """What a proposer folder holds, except for the weights themselves.

    Attributes:
        weights_sha256: digest of `model.safetensors`.
        image_ids: ids of the images it was trained on, None if they are not known (then it counts as leaky).
        training: how it was trained and how good it is, for the record; not part of its id.
    """

    path: str
    name: str
    network: Network
    selection: SelectionConfig
    weights_sha256: str
    image_ids: tuple[str, ...] | None = field(repr=False)
    training: dict[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def read(cls, path: str | os.PathLike) -> "ProposerFolder":
        text = os.fspath(path)
        filesystem, root = files.resolve(text)
        try:
            raw = json.loads(files.read_bytes(filesystem, f"{root}/proposer.json"))
            images = json.loads(files.read_bytes(filesystem, f"{root}/images.json"))
        except FileNotFoundError as error:
            hint = "make one with `mail-ris train-proposer` or `mail-ris import-proposer`"
            raise UserError(
                f"{text} is not a proposer: {os.path.basename(str(error.filename or ''))} " + hint
            ) from None
        except ValueError as error:
            raise UserError(f"{text} is not a proposer: proposer.json or images.json is broken ({error})") from None
        if raw.get("format_version") != FORMAT_VERSION:
            raise UserError(
                f"{text} has proposer format {raw.get('format_version')}, this program reads {FORMAT_VERSION}"
            )
        network = {**raw["network"], "categories": tuple((int(i), str(n)) for i, n in raw["network"]["categories"])}
        kind = Mask2FormerNetwork if network["architecture"] == "mask2former" else NetworkConfig
        return cls(
            path=text,
            name=raw["name"],
            network=kind(**network),
            selection=SelectionConfig(**raw["selection"]),
            weights_sha256=raw["weights_sha256"],
            image_ids=None if images is None else tuple(images),
            training=raw.get("training", {}),
        )

    def with_selection(self, score_threshold: float | None, max_instances: int | None) -> "ProposerFolder":
        """The same weights under other thresholds: another proposer."""
        selection = self.selection
        if score_threshold is not None:
            selection = replace(selection, score_threshold=score_threshold)
        if max_instances is not None:
            selection = replace(selection, max_instances=max_instances)
        return replace(self, selection=selection)

    @cached_property
    def proposer_id(self) -> str:
        """Name and hash of everything that determines the output: weights, architecture, thresholds, preprocessing."""
        determining = {
            "output_version": OUTPUT_VERSION,
            "weights": self.weights_sha256,
            "network": asdict(self.network),
            "selection": asdict(self.selection),
        }
        return f"{self.name}-{hashlib.sha256(json.dumps(determining, sort_keys=True).encode()).hexdigest()[:12]}"

    @cached_property
    def info(self) -> dict[str, Any]:
        """What the mask table and lineage records keep of it (the image ids by count and digest only)."""
        ids = self.image_ids
        trained_on = None if ids is None else {"count": len(ids), "digest": digest_of_ids(ids)}
        return {
            "id": self.proposer_id,
            "name": self.name,
            "network": asdict(self.network),
            "selection": asdict(self.selection),
            "weights_sha256": self.weights_sha256,
            "trained_on": trained_on,
        }

    def select(self, found: "Detections", size: tuple[int, int]) -> "Proposals":
        """Proposals of an image of `size` (H, W) from what the network found in it. Needs no network."""
        from mail.proposers.paste import select

        return select(found, size, self.selection)

    def weights(self) -> bytes:
        """The content of `model.safetensors`, checked against its digest."""
        filesystem, root = files.resolve(self.path)
        try:
            data = files.read_bytes(filesystem, f"{root}/model.safetensors")
        except FileNotFoundError:
            raise UserError(f"{self.path} has no model.safetensors") from None
        if hashlib.sha256(data).hexdigest() != self.weights_sha256:
            raise UserError(f"{self.path}/model.safetensors is not the file that proposer.json describes")
        return data


def write_proposer(
    path: str | os.PathLike,
    *,
    network: Network,
    selection: SelectionConfig,
    weights: bytes,
    image_ids: Sequence[str] | None,
    training: dict[str, Any],
) -> ProposerFolder:
    """Writes a proposer folder; `proposer.json` comes last, so that a folder that has it is complete."""
    filesystem, root = files.resolve(path)
    ids = None if image_ids is None else sorted(set(image_ids))
    content = {
        "format_version": FORMAT_VERSION,
        "name": network.name,
        "network": asdict(network),
        "selection": asdict(selection),
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
        "training": training,
    }
    files.write_bytes(filesystem, f"{root}/model.safetensors", weights)
    files.write_bytes(filesystem, f"{root}/images.json", json.dumps(ids).encode())
    files.write_bytes(filesystem, f"{root}/proposer.json", json.dumps(content, indent=2).encode())
    return ProposerFolder.read(path)


def digest_of_ids(image_ids: Iterable[str]) -> str:
    """sha256 of a set of image ids, whatever their order."""
    return hashlib.sha256("\n".join(sorted(set(image_ids))).encode()).hexdigest()
