"""Whose package is called `mail`, and a user without a home: each in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path


def test_another_package_called_mail_is_named_with_its_file(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "mail").mkdir()
    (tmp_path / "mail" / "__init__.py").touch()
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}:{repository}"}
    ended = subprocess.run(
        [sys.executable, "-m", "pipelines", "models", "list"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1
    assert f"error: {tmp_path}/mail/__init__.py is in the way" in ended.stderr
    assert f"Take {tmp_path} out of PYTHONPATH" in ended.stderr


def test_a_user_without_home_gets_a_folder_of_its_own(repository: Path, tmp_path: Path) -> None:
    ask = (
        "import os, pwd\n"
        "def nobody(uid): raise KeyError(uid)\n"
        "pwd.getpwuid = nobody\n"
        "from pipelines.surroundings import give_a_home\n"
        "give_a_home()\n"
        "import getpass, pathlib\n"
        "print(pathlib.Path.home(), oct(pathlib.Path.home().stat().st_mode & 0o777), getpass.getuser())"
    )
    environment = {"PATH": os.environ["PATH"], "TMPDIR": str(tmp_path)}
    for _ in range(2):  # the second time it is there
        found = subprocess.check_output([sys.executable, "-c", ask], cwd=repository, env=environment, text=True)
        assert found.split() == [f"{tmp_path}/mail-ris-home-{os.getuid()}", "0o700", str(os.getuid())]
