"""Two folders that take each other's names in one step, so that at no moment one of the names is nobody's."""

import ctypes
import errno
import os

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # of Linux's renameat2(2)
_CANNOT = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP)  # file systems of other machines, older kernels


def exchange(one: str, other: str) -> bool:
    """Whether they did; False where the system or the file system has no such step.

    Raises:
        OSError: one of them is not there, or may not be renamed.
    """
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, TypeError):  # another system's C library
        return False
    if rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    if (number := ctypes.get_errno()) in _CANNOT:
        return False
    raise OSError(number, os.strerror(number), one, None, other)
