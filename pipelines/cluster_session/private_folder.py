"""A folder in the temporary one that ends with its process, or else with the next process that makes one.

A killed process cannot tidy up. So each folder holds a file `owner` that its process keeps locked: the system lets go
of the lock however the process ends, and whoever can take it knows that nobody is at home.
"""

import contextlib
import fcntl
import os
import re
import shutil
import tempfile
from pathlib import Path

PREFIX = "mail-ray-"
PLAIN = re.compile(r"[\w./+-]{1,30}", re.ASCII)


class PrivateFolder:
    """A new folder, readable by this user alone. Making one removes those whose process is gone.

    Args:
        base: the folder to make it in (default: the system's temporary one, unless its name is long, for a socket's
            path must stay below 107 bytes, or has characters that Ray's own command lines would take apart).
    """

    def __init__(self, base: str | None = None):
        temporary = tempfile.gettempdir()
        base = base or (temporary if PLAIN.fullmatch(temporary) else "/tmp")
        sweep(base)
        self.path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=base))
        new = self.path / "owner.new"
        self._lock = open(new, "w")  # noqa: SIM115  # stays open, and locked, as long as the folder is in use
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        print(os.getpid(), file=self._lock, flush=True)
        new.rename(self.path / "owner")  # so that nobody finds it unlocked

    def close(self, keep: bool = False) -> None:
        """Removes the folder; or keeps it for good, for whoever wants to read what is in it."""
        if keep:
            (self.path / "owner").unlink(missing_ok=True)
        else:
            shutil.rmtree(self.path, ignore_errors=True)
        self._lock.close()


def sweep(base: str) -> None:
    """Removes what processes of this user left that were killed. A folder without `owner` is not ours, or was kept."""
    for owner in Path(base).glob(f"{PREFIX}*/owner"):
        with contextlib.suppress(OSError), open(owner) as file:  # another sweep was faster, or it is another user's
            if os.fstat(file.fileno()).st_uid != os.getuid():
                continue
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails where its process lives
            shutil.rmtree(owner.parent, ignore_errors=True)
