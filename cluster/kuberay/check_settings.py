"""Says what is not filled in yet: `python cluster/kuberay/check_settings.py`, before `kubectl kustomize`.

Exits 0 if settings.env beside this file has a value for each name of settings.example.env, 2 with a line for each that
it has not.
"""

import re
import sys
from pathlib import Path

HERE = Path(__file__).parent
LINE = re.compile(r"(?m)^([A-Z0-9_]+)=(.*)$")


def unfilled(example: str, settings: str) -> list[str]:
    """The names of the example that the settings do not give a value, or one that is no plain word."""
    given = dict(LINE.findall(settings))
    return [
        name for name, _ in LINE.findall(example) if not re.fullmatch(r"(?!FILL_IN)[\w.:/@-]+", given.get(name, ""))
    ]


def main() -> int:
    settings = HERE / "settings.env"
    if not settings.exists():
        print(f"error: there is no {settings}: copy settings.example.env to it and fill it in", file=sys.stderr)
        return 2
    missing = unfilled((HERE / "settings.example.env").read_text(), settings.read_text())
    for name in missing:
        print(f"error: {settings}: {name} needs a value, one word without spaces and quotes", file=sys.stderr)
    return 2 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
