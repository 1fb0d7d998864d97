"""What of a version is leaky, or of unknown origin, and the record that it was promoted all the same."""

from collections.abc import Sequence
from pathlib import Path

from mail import lineage
from pipelines.registry.client import connect
from pipelines.registry.models import Version, broken_links

ALLOWED = "leaky.allowed"  # tag of a version: why it was promoted


def gaps_and_leaks(version: Version, folder: Path) -> tuple[list[str], list[str]]:
    """What is wrong with a version's lineage, and what makes it leaky: only the latter can be allowed.

    Args:
        folder: the version's MODEL folder.
    """
    origin = lineage.read(folder)
    missing = {name: f"{name} was not recorded" for name in lineage.gaps(origin)}
    problems = missing | {name: f"{name}: {problem}" for name, problem in broken_links(origin, folder).items()}
    leaks = [f"the model is leaky: {lineage.leaks(origin)}"] if origin.get("leaky") or is_leaky(version) else []
    unknown = [name for name in problems if name.startswith(lineage.SEEN)]
    leaks += [problems.pop(name) for name in unknown]
    return list(problems.values()), leaks


def is_leaky(version: Version) -> bool:
    """Whether a version is labelled so."""
    return version.tags.get("leaky") == "true"


def record_allowed(version: Version, leaks: Sequence[str], reason: str) -> None:
    """Labels a version that was promoted although it is leaky, with the reason."""
    client, which = connect(), (version.name, version.version)
    for tag, text in {"leaky": "true", ALLOWED: reason}.items():
        client.set_model_version_tag(*which, tag, text)
    client.update_model_version(*which, f"Promoted although leaky ({'; '.join(leaks)}): {reason}")
