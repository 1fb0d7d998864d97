"""Mask2Former (Cheng et al. 2022, arXiv 2112.01527) of transformers as a proposer: a local checkpoint of it, run.

Its masks need no boxes: each of its queries gives a class and a map over the whole image. Of that map only the piece
around the instance leaves the network's process.
"""

from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, Mask2FormerImageProcessor

from mail import addresses, json_text
from mail.errors import UserError
from mail.pinned import upload
from mail.proposals import Proposals
from mail.proposers.config import Mask2FormerNetwork
from mail.proposers.folder import ProposerFolder
from mail.proposers.paste import Detections, detect_where_seen

DETECTIONS_PER_PROPOSAL = 1.5  # queries whose masks are looked at, before duplicates are removed


def read_checkpoint(path: str) -> tuple[Mask2FormerNetwork, bytes]:
    """A local folder as transformers' `save_pretrained` writes it -> the network's description and its weights.

    Raises:
        UserError: a file is missing, or it is another kind of model. Pickled weights (`.bin`) are not read.
    """
    folder = addresses.local_path(path)
    try:
        config = json_text.parse_object((folder / "config.json").read_bytes())
        processor = json_text.parse_object((folder / "preprocessor_config.json").read_bytes())
        weights = (folder / "model.safetensors").read_bytes()
    except FileNotFoundError as error:
        name = Path(str(error.filename)).name
        raise UserError(
            f"{path} has no {name}: it should be a local checkpoint of transformers with config.json, "
            "preprocessor_config.json and model.safetensors"
        ) from None
    except ValueError as error:
        raise UserError(f"{path} is no checkpoint of transformers: {error}") from None
    if config.get("model_type") != "mask2former":
        raise UserError(f"{path} is a {config.get('model_type')!r}, not a 'mask2former'")
    names = Mask2FormerConfig.from_dict(config).id2label or {}
    # ids are those of the checkpoint's labels plus one: 0 is nobody's category
    categories = tuple(sorted((int(i) + 1, str(n)) for i, n in names.items()))
    return Mask2FormerNetwork(config=config, processor=processor, categories=categories), weights


class Mask2FormerProposer:
    """A trained Mask2Former that turns images into proposals (see `mail.proposers.Proposer`)."""

    def __init__(
        self,
        folder: ProposerFolder,
        network: Mask2FormerForUniversalSegmentation,
        device: str | torch.device = "cpu",
    ):
        assert isinstance(folder.network, Mask2FormerNetwork)
        self.folder = folder
        self.proposer_id, self.info = folder.proposer_id, folder.info
        self.device = torch.device(device)
        self.network: Any = network.eval()
        self.network.to(self.device, memory_format=torch.channels_last)
        self.processor = Mask2FormerImageProcessor.from_dict(folder.network.processor)
        self._categories = np.array([i for i, _ in folder.network.categories], np.int32)

    @classmethod
    def load(cls, folder: ProposerFolder, device: str | torch.device = "cpu") -> "Mask2FormerProposer":
        """With the folder's weights."""
        assert isinstance(folder.network, Mask2FormerNetwork)
        config = Mask2FormerConfig.from_dict(folder.network.config)
        try:
            # not load_state_dict: published checkpoints have older names for some layers, which transformers knows
            loaded: Any = Mask2FormerForUniversalSegmentation.from_pretrained(
                None, config=config, state_dict=safetensors.torch.load(folder.weights()), output_loading_info=True
            )
            network, said = loaded
        except (RuntimeError, safetensors.SafetensorError) as error:
            raise UserError(f"{folder.path}: the weights do not fit its config: {error}") from None
        if wrong := sorted(said["missing_keys"]):
            raise UserError(f"{folder.path}: the weights do not fit its config: no {', '.join(wrong[:3])}")
        return cls(folder, network, device)

    def propose(self, images: list[np.ndarray]) -> list[Proposals]:
        return [self.select(d, (i.shape[0], i.shape[1])) for d, i in zip(self.detect(images), images, strict=True)]

    def select(self, found: Detections, size: tuple[int, int]) -> Proposals:
        return self.folder.select(found, size)

    def detect(self, images: list[np.ndarray]) -> list[Detections]:
        return detect_where_seen(self.folder.network, self._detect, images)

    @torch.inference_mode()
    def _detect(self, images: list[np.ndarray]) -> list[Detections]:
        inputs = self.processor(
            upload(images, self.device), return_tensors="pt", device=self.device, input_data_format="channels_first"
        )
        pixels = inputs["pixel_values"].contiguous(memory_format=torch.channels_last)  # (B, 3, H, W), padded
        inside = inputs["pixel_mask"]  # (B, H, W), 0 where it was padded
        bf16 = self.device.type == "cuda" and torch.cuda.is_bf16_supported()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=bf16):
            output = self.network(pixel_values=pixels, pixel_mask=inside)
        classes = output.class_queries_logits.float().softmax(-1)[..., :-1]  # (B, Q, C)
        maps = output.masks_queries_logits.float()  # (B, Q, h, w)
        used = torch.stack([inside.any(2).sum(1), inside.any(1).sum(1)], 1).tolist()  # rows, columns of each image
        ratio = (maps.shape[2] / pixels.shape[2], maps.shape[3] / pixels.shape[3])
        found = []
        for image, kind, logits, (rows, columns) in zip(images, classes, maps, used, strict=True):
            covered = (rows * ratio[0], columns * ratio[1])  # cells of the map that are the image, not padding
            logits = logits[:, : int(np.ceil(covered[0])), : int(np.ceil(covered[1]))]
            found.append(self._strongest(kind, logits, (image.shape[0] / covered[0], image.shape[1] / covered[1])))
        return found

    def _strongest(self, kind: torch.Tensor, logits: torch.Tensor, pixels_per_cell: tuple[float, float]) -> Detections:
        """The best queries of an image: kind (Q, C) probabilities, logits (Q, h, w).

        The score is the class's probability times the mean probability inside the mask, as Mask2Former is evaluated.
        """
        selection = self.folder.selection
        chances = logits.sigmoid()
        inside = logits > 0
        certainty = (chances * inside).sum((1, 2)) / (inside.sum((1, 2)) + 1e-6)
        best, label = kind.max(1)  # a query's other classes would give the same mask again
        scores = best * certainty
        count = min(len(scores), round(selection.max_instances * DETECTIONS_PER_PROPOSAL))
        scores, order = scores.topk(count)
        order = order[scores >= selection.score_threshold]
        masks = chances[order].half().cpu().numpy()
        boxes, pieces, kept = [], [], []
        for number, mask in enumerate(masks):
            if (piece := _around(mask >= selection.mask_threshold)) is not None:
                rows, columns = piece
                down, across = pixels_per_cell
                boxes.append([columns.start * across, rows.start * down, columns.stop * across, rows.stop * down])
                pieces.append(np.ascontiguousarray(mask[rows, columns]))
                kept.append(number)
        return Detections(
            boxes=np.array(boxes, np.float32).reshape(-1, 4),
            scores=scores[: len(order)].cpu().numpy()[kept],
            labels=self._categories[label[order].cpu().numpy()[kept]],
            masks=pieces,
            edge=True,
        )


def _around(mask: np.ndarray) -> tuple[slice, slice] | None:
    """Rows and columns of the cells (h, w) that are set, and one more on each side; None if there are none."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if len(rows) == 0:
        return None
    return (
        slice(max(0, rows[0] - 1), min(mask.shape[0], rows[-1] + 2)),
        slice(max(0, columns[0] - 1), min(mask.shape[1], columns[-1] + 2)),
    )
