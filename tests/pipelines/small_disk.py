"""A small disk, really mounted, that other processes can be started with; and one that can be filled while they run."""

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

_MOUNTED = 'mount -t tmpfs -o size="$1" none "$2" && shift 2 && exec "$@"'


def mounted(place: str | Path, size: str) -> list[str]:
    """What to start a command with so that it, and nobody else, finds a disk of this size at a place."""
    namespace = ["unshare", "--mount", "--"]
    if subprocess.run([*namespace, "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True).returncode:
        pytest.skip("this user may not mount anything")
    return [*namespace, "sh", "-c", _MOUNTED, "sh", size, str(place)]


class Disk:
    """A disk that several commands find at one place, one after another.

    Attributes:
        place: its folder, for them. within: what to start them with.
    """

    def __init__(self, place: Path, keeper: int):
        self.place = place
        self.within = ["nsenter", f"--target={keeper}", "--mount", f"--wd={place.parent}", "--"]
        self.seen = Path(f"/proc/{keeper}/root{place}")  # the folder, for this process
        self._ballast = self.seen / "ballast"

    def fill(self) -> None:
        """Takes all the space that is left."""
        with open(self._ballast, "ab", buffering=0) as file:
            for piece in (2**20, 2**12, 1):
                with contextlib.suppress(OSError):
                    while file.write(bytes(piece)) == piece:
                        pass

    def free(self) -> None:
        """Gives it back."""
        self._ballast.unlink()


@contextlib.contextmanager
def small_disk(place: Path, size: str) -> Iterator[Disk]:
    """A disk for the length of a block."""
    place.mkdir()
    command = [*mounted(place, size), "sh", "-c", "echo ready; exec sleep 1000"]
    keeper = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert keeper.stdout is not None
    keeper.stdout.readline()
    try:
        yield Disk(place, keeper.pid)
    finally:
        keeper.kill()
        keeper.wait()
