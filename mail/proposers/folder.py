"""The proposer folder: reading and writing it, and the id of what it would output. Needs no torch."""

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

import pyarrow as pa

from mail import addresses, json_text
from mail.data import files
from mail.data.origins import Origin
from mail.errors import UserError
from mail.inventory import is_sealed, sealed
from mail.proposals import Proposals
from mail.proposers.config import Mask2FormerNetwork, Network, NetworkConfig, SelectionConfig
from mail.proposers.paste import Detections, select

FORMAT_VERSION = 1
OUTPUT_VERSION = 1  # raise it when the code changes what a proposer outputs for the same weights and settings


@dataclass(frozen=True)
class ProposerFolder:
    """What a proposer folder holds, except for the weights themselves.

    Attributes:
        weights_sha256: digest of `model.safetensors`.
        origin: what it saw in training, its initial weights included.
        training: how it was trained and how good it is, for the record; not part of its id.
    """

    path: str
    name: str
    network: Network
    selection: SelectionConfig
    weights_sha256: str
    origin: Origin = field(repr=False)
    training: dict[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def read(cls, path: str | os.PathLike) -> "ProposerFolder":
        text = addresses.absolute(path)
        filesystem, root = files.resolve(text)
        try:
            raw = json_text.parse_object(files.read_bytes(filesystem, f"{root}/proposer.json"))
            found = files.read_bytes(filesystem, f"{root}/images.json")
            origin = Origin.from_json(json_text.parse(found))
        except (FileNotFoundError, NotADirectoryError) as error:
            name = os.path.basename(str(error.filename or "")) or "proposer.json"
            raise UserError(
                f"{text} is not a proposer: it has no {name} (make one with `mail-ris train-proposer` or "
                "`mail-ris import-proposer`)"
            ) from None
        except ValueError as error:
            raise UserError(f"{text} is not a proposer: proposer.json or images.json is broken ({error})") from None
        if not is_sealed(raw):
            raise UserError(f"{text}/proposer.json is damaged: copy the proposer again, or make it again")
        if raw.get("images_sha256", listed := _sha256(found)) != listed:
            raise UserError(f"{text}/images.json is damaged: copy the proposer again, or make it again")
        if raw.get("format_version") != FORMAT_VERSION:
            raise UserError(
                f"{text} has proposer format {raw.get('format_version')}, this program reads {FORMAT_VERSION}"
            )
        try:
            network = {**raw["network"], "categories": tuple((int(i), str(n)) for i, n in raw["network"]["categories"])}
            kind = Mask2FormerNetwork if network["architecture"] == "mask2former" else NetworkConfig
            return cls(
                path=text,
                name=raw["name"],
                network=kind(**network),
                selection=SelectionConfig(**raw["selection"]),
                weights_sha256=raw["weights_sha256"],
                origin=origin,
                training=raw.get("training", {}),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{text}/proposer.json is not one of this program's: {error!r}") from None

    def with_selection(self, score_threshold: float | None, max_instances: int | None) -> "ProposerFolder":
        """The same weights under other thresholds: another proposer."""
        given = {"score_threshold": score_threshold, "max_instances": max_instances}
        changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        return replace(self, selection=replace(self.selection, **changes))

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
        """What the mask table and lineage records keep of it (listed images by count and digest only)."""
        return {
            "id": self.proposer_id,
            "name": self.name,
            "network": asdict(self.network),
            "selection": asdict(self.selection),
            "weights_sha256": self.weights_sha256,
            "trained_on": self.origin.summary,
        }

    def select(self, found: Detections, size: tuple[int, int]) -> Proposals:
        """Proposals of an image of `size` (H, W) from what the network found in it. Needs no network."""
        return select(found, size, self.selection)

    def weights(self) -> bytes:
        """The content of `model.safetensors`, checked against its digest."""
        filesystem, root = files.resolve(self.path)
        try:
            data = files.read_bytes(filesystem, f"{root}/model.safetensors")
        except FileNotFoundError:
            raise UserError(f"{self.path} has no model.safetensors") from None
        if _sha256(data) != self.weights_sha256:
            raise UserError(
                f"{self.path}/model.safetensors is not the file that proposer.json describes: copy the proposer again, "
                "or make it again"
            )
        return data


def write_proposer(
    path: str | os.PathLike,
    *,
    network: Network,
    selection: SelectionConfig,
    weights: bytes,
    seen: Origin | pa.Table | Iterable[str] | None,
    training: dict[str, Any],
) -> ProposerFolder:
    """Writes a proposer folder; `proposer.json` comes last, so that a folder that has it is complete.

    Args:
        seen: what the weights saw: an origin, keys or ids alone of listed images, None if nobody knows.
    """
    filesystem, root = files.resolve(path)
    images = json.dumps(Origin.of(seen).to_json()).encode()
    content = {
        "format_version": FORMAT_VERSION,
        "name": network.name,
        "network": asdict(network),
        "selection": asdict(selection),
        "weights_sha256": _sha256(weights),
        "images_sha256": _sha256(images),
        "training": training,
    }
    files.write_bytes(filesystem, f"{root}/model.safetensors", weights)
    files.write_bytes(filesystem, f"{root}/images.json", images)
    files.write_bytes(filesystem, f"{root}/proposer.json", json.dumps(sealed(content), indent=2).encode())
    return ProposerFolder.read(path)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
