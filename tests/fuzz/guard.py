"""Watches what a reader does besides reading its own folder: Python's audit hooks tell of files, programs, sockets."""

import os
import site
import sys
import sysconfig
from pathlib import Path
from typing import Any

PROGRAMS = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "subprocess.Popen", "socket.connect", "ctypes.dlopen")
CHANGES = ("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.symlink", "os.link", "os.chmod", "shutil.rmtree")
SYSTEM = ("/proc/", "/sys/", "/dev/", "/usr/", "/etc/localtime", "/etc/ssl/", "/etc/mime.types")


class Guard:
    """From `begin` to `end`, every file outside of `folder`, every program and every connection goes into `seen`."""

    def __init__(self, folder: Path):
        self.seen: list[str] = []
        self._active = False
        libraries = {*sysconfig.get_paths().values(), *site.getsitepackages(), sys.prefix, sys.base_prefix}
        self._inside = os.path.realpath(folder) + os.sep
        self._readable = (*SYSTEM, *(os.path.realpath(path) for path in libraries), str(Path.cwd()))
        sys.addaudithook(self._hook)

    def begin(self) -> None:
        self.seen = []
        self._active = True

    def end(self) -> list[str]:
        self._active = False
        return self.seen

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._active:
            return
        if event in PROGRAMS:
            self.seen.append(f"{event}{arguments!r:.200}")
        elif event == "open" and isinstance(arguments[0], str | bytes):
            path, mode, flags = arguments
            writes = any(c in (mode or "") for c in "wax+") or bool((flags or 0) & (os.O_WRONLY | os.O_RDWR))
            self._check("open", path, writes)
        elif event in CHANGES:
            for path in arguments[:2]:
                if isinstance(path, str | bytes):
                    self._check(event, os.path.join(_folder(arguments[-1]), os.fsdecode(path)), writes=True)

    def _check(self, event: str, path: str | bytes, writes: bool) -> None:
        real = os.path.realpath(os.fsdecode(path).replace("\0", ""))
        if (real + os.sep).startswith(self._inside) or (not writes and real.startswith(self._readable)):
            return
        self.seen.append(f"{event} {real}")


def _folder(descriptor: Any) -> str:
    """The folder that a relative path is meant in: `shutil.rmtree` works with descriptors of folders."""
    return os.readlink(f"/proc/self/fd/{descriptor}") if isinstance(descriptor, int) and descriptor >= 0 else ""
