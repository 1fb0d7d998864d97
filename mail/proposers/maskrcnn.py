"""Mask R-CNN (He et al. 2017, arXiv 1703.06870) of torchvision: the network, and the proposer that runs it.

`r50-fpn` and `r50-fpn-v2` are torchvision's; `tiny` is the same detector on a backbone of four small convolutions,
for generated scenes and CPUs.
"""

import io
import re
from collections import OrderedDict
from typing import Any

import numpy as np
import safetensors.torch
import torch
import torchvision
from torch import nn
from torchvision.models.detection import MaskRCNN, mask_rcnn, rpn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign, misc

from mail.data import files
from mail.errors import UserError
from mail.pinned import upload
from mail.proposals import Proposals
from mail.proposers.config import NetworkConfig, SelectionConfig
from mail.proposers.folder import ProposerFolder
from mail.proposers.paste import Detections, detect_where_seen

OLDER_NAMES = (
    (r"^rpn\.head\.conv\.(weight|bias)$", r"rpn.head.conv.0.0.\1"),
    (r"^backbone\.fpn\.(inner|layer)_blocks\.(\d+)\.(weight|bias)$", r"backbone.fpn.\1_blocks.\2.0.\3"),
)
DETECTIONS_PER_PROPOSAL = 1.5  # detections that get a mask, before duplicates are removed


def build_network(config: NetworkConfig, selection: SelectionConfig | None = None) -> MaskRCNN:
    """An untrained Mask R-CNN; the last layers have one output a category plus the background."""
    selection = selection or SelectionConfig()
    settings: dict[str, Any] = {
        "min_size": config.min_size,
        "max_size": config.max_size,
        "box_score_thresh": selection.score_threshold,
        "box_nms_thresh": selection.box_nms,
        "box_detections_per_img": round(selection.max_instances * DETECTIONS_PER_PROPOSAL),
    }
    classes = len(config.categories) + 1
    if config.architecture == "tiny":
        return _tiny(classes, settings)
    builder = {
        "r50-fpn": torchvision.models.detection.maskrcnn_resnet50_fpn,
        "r50-fpn-v2": torchvision.models.detection.maskrcnn_resnet50_fpn_v2,
    }[config.architecture]
    settings["rpn_post_nms_top_n_test"] = max(1000, 2 * settings["box_detections_per_img"])
    network = builder(weights=None, weights_backbone=None, num_classes=classes, **settings)  # all layers trainable
    return _freeze_norms(network) if config.frozen_norm else network


def load_initial_weights(network: MaskRCNN, path: str) -> None:
    """Starts a network from a local state dict (.safetensors or .pth): a detector's, or a ResNet classifier's backbone.

    Layers whose shape differs (the heads, for other categories) keep their random values.

    Raises:
        UserError: the file cannot be read without running code from it, or fits nowhere.
    """
    state = read_state_dict(path)
    if not any(k.startswith("backbone.") for k in state):
        state = {f"backbone.body.{k}": v for k, v in state.items()}
    own = network.state_dict()
    fitting = {k: v for k, v in state.items() if k in own and own[k].shape == v.shape}
    if not fitting:
        raise UserError(f"{path} has no tensor of this architecture")
    network.load_state_dict(fitting, strict=False)


def current_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A detector's tensors under the names of today's torchvision; weights published before 0.13 have older ones."""
    renamed = {}
    for name, tensor in state.items():
        for old, new in OLDER_NAMES:
            name = re.sub(old, new, name)
        name = re.sub(r"mask_fcn(\d+)\.(?=weight|bias)", lambda m: f"{int(m[1]) - 1}.0.", name)
        renamed[name] = tensor
    return renamed


def read_state_dict(path: str) -> dict[str, torch.Tensor]:
    """Tensors by name of a .safetensors or .pth file, local or s3://.

    Raises:
        UserError: it is not there, or cannot be read without running code from it.
    """
    filesystem, where = files.resolve(path)
    try:
        data = files.read_bytes(filesystem, where)
    except FileNotFoundError:
        raise UserError(f"there is no file {path}: --weights is a local .safetensors or .pth state dict") from None
    try:
        if path.endswith(".safetensors"):
            state = safetensors.torch.load(data)
        else:
            state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        return current_names(dict(state.get("model", state)))
    except Exception as error:  # safetensors and pickle each have their own
        raise UserError(f"{path} is not a state dict of tensors: {str(error).splitlines()[0]}") from None


class TinyBackbone(nn.Module):
    """Convolutions down to stride 8 and a feature pyramid over strides 4 and 8."""

    out_channels = 64

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(_convolution(3, 24, stride=2), _convolution(24, 32, stride=2), _convolution(32, 48))
        self.fine = _convolution(48, 64)
        self.coarse = nn.Sequential(_convolution(64, 96, stride=2), _convolution(96, 96), _convolution(96, 96))
        self.pyramid = FeaturePyramidNetwork([64, 96], self.out_channels)

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """(B, 3, H, W) -> {"0": (B, 64, H/4, W/4), "1": (B, 64, H/8, W/8)}."""
        fine = self.fine(self.stem(images))
        return self.pyramid(OrderedDict([("0", fine), ("1", self.coarse(fine))]))


def _convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


def _tiny(classes: int, settings: dict[str, Any]) -> MaskRCNN:
    backbone = TinyBackbone()
    width = backbone.out_channels
    anchors = AnchorGenerator(((20,), (44,)), ((1.0,), (1.0,)))
    mask_head = mask_rcnn.MaskRCNNHeads(width, (32, 32), 1, norm_layer=nn.BatchNorm2d)
    return MaskRCNN(
        backbone,
        rpn_anchor_generator=anchors,
        rpn_head=rpn.RPNHead(width, 1),
        box_roi_pool=MultiScaleRoIAlign(["0", "1"], 7, 2, canonical_scale=64, canonical_level=3),
        box_head=TwoMLPHead(width * 7 * 7, 128),
        box_predictor=FastRCNNPredictor(128, classes),
        mask_roi_pool=MultiScaleRoIAlign(["0", "1"], 14, 2, canonical_scale=64, canonical_level=3),
        mask_head=mask_head,
        mask_predictor=mask_rcnn.MaskRCNNPredictor(32, 32, classes),
        rpn_pre_nms_top_n_train=400,
        rpn_post_nms_top_n_train=128,
        rpn_pre_nms_top_n_test=200,
        rpn_post_nms_top_n_test=64,
        rpn_batch_size_per_image=64,
        box_batch_size_per_image=64,
        size_divisible=16,
        **settings,
    )


def _freeze_norms(network: MaskRCNN) -> MaskRCNN:
    """Replaces the backbone's batch norms by frozen ones, as torchvision does for its published weights."""
    for name, module in list(network.backbone.body.named_modules()):
        if isinstance(module, nn.BatchNorm2d):
            parent, _, child = name.rpartition(".")
            setattr(
                network.backbone.body.get_submodule(parent), child, misc.FrozenBatchNorm2d(module.num_features, 0.0)
            )
    return network


class MaskRCNNProposer:
    """A trained Mask R-CNN that turns images into proposals (see `mail.proposers.Proposer`).

    Attributes:
        bf16: the backbone computes in bfloat16 (by default on GPUs that can); boxes and masks always in float32.
    """

    def __init__(self, folder: ProposerFolder, network: MaskRCNN, device: str | torch.device = "cpu"):
        self.folder = folder
        self.proposer_id, self.info = folder.proposer_id, folder.info
        self.device = torch.device(device)
        self.network = network.to(self.device, memory_format=torch.channels_last).eval()
        self.bf16 = self.device.type == "cuda" and torch.cuda.is_bf16_supported()
        self._categories = np.array([0, *(i for i, _ in folder.network.categories)], np.int32)

    @classmethod
    def load(cls, folder: ProposerFolder, device: str | torch.device = "cpu") -> "MaskRCNNProposer":
        """With the folder's weights."""
        assert isinstance(folder.network, NetworkConfig)
        network = build_network(folder.network, folder.selection)
        try:
            network.load_state_dict(safetensors.torch.load(folder.weights()))
        except (RuntimeError, safetensors.SafetensorError) as error:
            raise UserError(f"{folder.path}: the weights do not fit {folder.network.architecture}: {error}") from None
        return cls(folder, network, device)

    def propose(self, images: list[np.ndarray]) -> list[Proposals]:
        return [self.select(d, (i.shape[0], i.shape[1])) for d, i in zip(self.detect(images), images, strict=True)]

    def select(self, found: Detections, size: tuple[int, int]) -> Proposals:
        return self.folder.select(found, size)

    def detect(self, images: list[np.ndarray]) -> list[Detections]:
        return detect_where_seen(self.folder.network, self._detect, images)

    @torch.inference_mode()
    def _detect(self, images: list[np.ndarray]) -> list[Detections]:
        network = self.network
        tensors = [image.float() / 255 for image in upload(images, self.device)]
        batch, _ = network.transform(tensors)
        batch = ImageList(batch.tensors.contiguous(memory_format=torch.channels_last), batch.image_sizes)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            features = network.backbone(batch.tensors)
        features = {k: v.float() for k, v in features.items()}
        proposals, _ = network.rpn(batch, features)
        detections, _ = network.roi_heads(features, proposals, batch.image_sizes)
        # one copy of each kind for the whole batch: the host waits for the device at every one
        names = ("boxes", "scores", "labels", "masks")
        arrays = (torch.cat([one[name] for one in detections]).cpu().numpy() for name in names)
        ends = np.cumsum([len(one["scores"]) for one in detections])[:-1]
        pieces = zip(images, batch.image_sizes, *(np.split(array, ends) for array in arrays), strict=True)
        return [
            Detections(
                boxes=boxes * np.array([image.shape[1] / width, image.shape[0] / height] * 2, np.float32),
                scores=scores,
                labels=self._categories[labels],
                masks=masks[:, 0],
            )
            for image, (height, width), boxes, scores, labels, masks in pieces
        ]
