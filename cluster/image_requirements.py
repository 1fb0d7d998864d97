"""What of requirements.lock an image holds: `python image_requirements.py requirements.lock LOCKED [TORCH]`.

LOCKED gets, with its hashes, what the stages need, and none of the tools that only tests and developers do. With TORCH
it is for an image without CUDA: what only CUDA needs stays out too, and TORCH gets the versions of torch and
torchvision, whose CPU builds are other files than those of the lock.
"""

import re
import sys
from pathlib import Path

ROOT = "mail-ris (pyproject.toml)"  # who wants a package, in the lock's comments; the group of tools has ":dev" behind
TORCH = ("torch", "torchvision")
ONLY_CUDA = re.compile(r"nvidia-|cuda-|triton$")


def packages(lock: str) -> dict[str, list[str]]:
    """The lock's blocks by package: one has several where its version depends on the machine."""
    found: dict[str, list[str]] = {}
    for block in re.split(r"(?m)^(?=[A-Za-z0-9])", lock):
        if match := re.match(r"([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==", block):
            found.setdefault(match[1].lower(), []).append(block)
    return found


def without_tools(lock: str) -> dict[str, list[str]]:
    """The blocks of what the stages need: of what pyproject.toml's dependencies name, and what those need in turn."""
    every = packages(lock)
    wanted_by = {name: re.findall(r"(?m)^ +#(?: +via)? +(\S.*)$", "".join(blocks)) for name, blocks in every.items()}
    kept: set[str] = set()
    while more := {name for name, by in wanted_by.items() if name not in kept and {ROOT, *kept} & set(by)}:
        kept |= more
    return {name: blocks for name, blocks in every.items() if name in kept}


def split(lock: str) -> tuple[str, str]:
    """The two files' texts for an image without CUDA."""
    kept = without_tools(lock)
    locked = "".join("".join(b) for name, b in kept.items() if name not in TORCH and not ONLY_CUDA.match(name))
    versions = [re.match(r"\S+?==[^\s;\\]+", block) for name in TORCH for block in kept[name]]
    return locked, "".join(dict.fromkeys(f"{version[0]}\n" for version in versions if version))


if __name__ == "__main__":
    text = Path(sys.argv[1]).read_text()
    texts = split(text) if len(sys.argv) > 3 else ("".join(map("".join, without_tools(text).values())),)
    for path, content in zip(sys.argv[2:], texts, strict=True):
        Path(path).write_text(content)
