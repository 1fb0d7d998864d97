"""What a training needs and what a GPU could give: memory of a step, and the peak that its speed is compared with."""

from dataclasses import dataclass

import torch

from mail.model import MailConfig
from mail.model.presets import full_expression

# dense peaks as NVIDIA's data sheets give them, in operations a second: bf16, and fp32 as torch uses it by default
PEAKS = {
    "H200": (989e12, 67e12),
    "H100 PCIe": (756e12, 51e12),
    "H100": (989e12, 67e12),
    "A100": (312e12, 19.5e12),
    "L40S": (362e12, 91.6e12),
    "L4": (121e12, 30.3e12),
    "A10G": (70e12, 35e12),
    "A10": (125e12, 31.2e12),
}


def peak_flops(device: torch.device, bf16: bool) -> float | None:
    """The device's peak, None where it is not known (CPUs, other GPUs)."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peaks[0 if bf16 else 1] for key, peaks in PEAKS.items() if key in name), None)


@dataclass(frozen=True)
class Memory:
    """Bytes of a training step: `state` (weights, gradients, AdamW's moments) and `activations` kept for backward."""

    state: int
    activations: int

    @property
    def total(self) -> int:
        return self.state + self.activations


def estimate(config: MailConfig, expressions: int, bf16: bool = False) -> Memory:
    """Memory of a pass over `expressions` expressions, each on an image of its own with all slots and words filled.

    Counts what autograd keeps, on tensors without memory; what kernels need while they run comes on top.
    """
    from mail.model import MailForReferringSegmentation

    with torch.device("meta"):
        model = MailForReferringSegmentation(config).train()
        batch = full_expression(config)
        kept: set[torch.UntypedStorage] = set()
        own = {p.untyped_storage() for p in model.parameters()}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage not in own:
                kept.add(storage)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model(**batch)
    parameters = sum(p.numel() for p in model.parameters())
    each = sum(storage.nbytes() for storage in kept)
    return Memory(16 * parameters, expressions * (each // 2 if bf16 else each))
