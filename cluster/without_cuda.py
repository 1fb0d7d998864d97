"""Splits requirements.lock for an image without CUDA: `python without_cuda.py requirements.lock LOCKED TORCH`.

LOCKED gets everything but torch, torchvision and what only CUDA needs, with its hashes; TORCH gets the versions of the
first two, whose CPU builds are other files than those of the lock.
"""

import re
import sys
from pathlib import Path

TORCH = ("torch", "torchvision")
ONLY_CUDA = re.compile(r"nvidia-|cuda-|triton$")


def split(lock: str) -> tuple[str, str]:
    """The two files' texts."""
    locked, torch = [], []
    for block in re.split(r"(?m)^(?=[A-Za-z0-9])", lock):
        if not (match := re.match(r"([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==([^\s;\\]+)", block)):
            continue
        name, version = match[1].lower(), match[2]
        if name in TORCH:
            torch.append(f"{name}=={version}\n")
        elif not ONLY_CUDA.match(name):
            locked.append(block)
    return "".join(locked), "".join(dict.fromkeys(torch))


if __name__ == "__main__":
    for path, text in zip(sys.argv[2:], split(Path(sys.argv[1]).read_text()), strict=True):
        Path(path).write_text(text)
