"""What a stage finds around it before anything else is imported: whose packages, whose home.

The packages are called `mail` and `pipelines`, which a folder of somebody else's may be called as well. They keep these
names: they are in the saved models' code (`mail` is logged with each of them), in Ray jobs that people submit
(`python -m pipelines`) and in people's own scripts. Python takes the first of a name on its path, so a clash cannot be
repaired from inside; it is named instead, with the file that is in the way. (Who runs `python -m pipelines` beside a
package `pipelines` of his own gets that one: `mail-ris` does not look in the working directory.)
"""

import importlib.util
import os
import pwd
import stat
import tempfile
from pathlib import Path


def in_the_way() -> str | None:
    """One line about a package `mail` that is not ours, None where it is ours."""
    ours = Path(__file__).resolve().parents[1]
    found = importlib.util.find_spec("mail")
    origin = (found.origin or next(iter(found.submodule_search_locations or ()), None)) if found else None
    if origin is None:
        return f"the package `mail` is not beside {Path(__file__).parent}: install mail-ris again"
    file = Path(origin).resolve()
    if file.is_relative_to(ours):
        return None
    return (
        f"{file} is in the way: it is called `mail` as a package of mail-ris is, and comes first on Python's path. "
        f"Take {file.parent.parent if file.name == '__init__.py' else file.parent} out of PYTHONPATH, or start from "
        "another folder"
    )


def give_a_home() -> None:
    """A user without name or home (`docker --user 12345`) gets both: libraries ask for them while they are imported."""
    try:
        pwd.getpwuid(os.getuid())
    except KeyError:
        os.environ.setdefault("USER", str(os.getuid()))
        os.environ.setdefault("LOGNAME", os.environ["USER"])
    try:
        Path.home()
    except RuntimeError:
        os.environ["HOME"] = str(_own_folder())


def _own_folder() -> Path:
    """A folder for temporary files that is this user's alone, the same at each start where that can be."""
    folder = Path(tempfile.gettempdir()) / f"mail-ris-home-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022:
            return folder
    except OSError:
        pass
    return Path(tempfile.mkdtemp(prefix="mail-ris-home-"))
