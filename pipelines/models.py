"""`mail-ris models list | show | promote | rollback`: the registered models, and which one is the champion.

The champion is the version with the alias `champion`; `predict --model models:/mail-ris@champion` uses it. Earlier
champions are remembered in order, so that `rollback` may be called again and again.
"""

import dataclasses
import json
import time
from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from mail import lineage
from mail.errors import UserError
from pipelines import tracking
from pipelines.stage import Stage, done

HISTORY_TAG = "champion_history"  # of the registered model: versions that were champion before, oldest first


@dataclass(kw_only=True)
class ListModels(Stage):
    """Lists the versions of a registered model, newest first."""

    name: str = tracking.MODEL_NAME
    """The registered model."""

    json: bool = False
    """Print JSON instead of a table."""

    def plan(self) -> dict[str, Any]:
        return {"tracking_uri": tracking.tracking_uri()}

    def run(self) -> list[tracking.Version]:
        found = tracking.versions(self.name)
        if self.json:
            print(json.dumps([dataclasses.asdict(v) for v in found], indent=2))
            return found
        if not found:
            done(f"no versions of {self.name} at {tracking.tracking_uri()}: `mail-ris train` registers them")
            return found
        rows = [("version", "alias", "created", "label", "oIoU of the evaluations", "run")]
        for version in found:
            created = time.strftime("%Y-%m-%d %H:%M", time.localtime(version.created))
            label = "leaky" if version.tags.get("leaky") == "true" else "clean"
            alias = ", ".join(version.aliases) or "-"
            rows.append((version.version, alias, created, label, _scores(version) or "-", version.run_id or "-"))
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        for row in rows:
            print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        return found


@dataclass(kw_only=True)
class ShowModel(Stage):
    """Shows where a model comes from: run, masks, proposer, data, code."""

    model: Annotated[str, tyro.conf.Positional] = f"{tracking.SCHEME}{tracking.MODEL_NAME}@{tracking.CHAMPION}"
    """models:/NAME@ALIAS, models:/NAME/NUMBER, or a model folder."""

    json: bool = False
    """Print the whole lineage as JSON instead of a tree."""

    def plan(self) -> dict[str, Any]:
        return {"model": str(tracking.resolve_model(self.model))}

    def run(self) -> dict[str, Any]:
        origin = lineage.read(tracking.resolve_model(self.model))
        missing = lineage.gaps(origin)
        if self.json:
            print(json.dumps({"model": self.model, "lineage": origin, "gaps": missing}, indent=2))
            return origin
        title = self.model
        if self.model.startswith(tracking.SCHEME):
            version = tracking.find_version(self.model)
            title = f"{version.name} version {version.version} {' '.join('@' + a for a in version.aliases)}".rstrip()
            if scores := _scores(version):
                title += f" ({scores})"
        print(lineage.tree(origin, title))
        if missing:
            print(f"the chain has gaps: {', '.join(missing)}")
        return origin


@dataclass(kw_only=True)
class Promote(Stage):
    """Makes a version the champion; refuses one whose lineage has a gap."""

    model: Annotated[str, tyro.conf.Positional]
    """models:/NAME/NUMBER, models:/NAME@ALIAS, or a version's number."""

    name: str = tracking.MODEL_NAME
    """The registered model that a bare number belongs to."""

    def _version(self) -> tracking.Version:
        return tracking.find_version(f"{self.name}/{self.model}" if self.model.isdigit() else self.model)

    def plan(self) -> dict[str, Any]:
        version = self._version()
        before = champion(version.name)
        return {"promote": version.version, "replaces": before.version if before else None}

    def run(self) -> tracking.Version:
        version = self._version()
        before = promote(version)
        replaced = f", it was version {before.version}" if before and before.version != version.version else ""
        done(f"{version.name} version {version.version} is the {tracking.CHAMPION}{replaced}")
        return version


@dataclass(kw_only=True)
class Rollback(Stage):
    """Makes the previous champion the champion again."""

    name: str = tracking.MODEL_NAME
    """The registered model."""

    def plan(self) -> dict[str, Any]:
        now = champion(self.name)
        return {"champion": now.version if now else None}

    def run(self) -> tracking.Version:
        before, after = rollback(self.name)
        done(f"{self.name} version {after.version} is the {tracking.CHAMPION} again, it was version {before.version}")
        return after


MODELS: dict[str, type[Stage]] = {"list": ListModels, "show": ShowModel, "promote": Promote, "rollback": Rollback}


def _scores(version: tracking.Version) -> str:
    """ "testA .612, testB .588": oIoU of the evaluations that were noted on the version."""
    found = []
    for key, value in sorted(version.tags.items()):
        if key.startswith("metrics."):
            score = json.loads(value).get("oIoU")
            found.append(f"{key.split('.')[1]} {score:.3f}" if isinstance(score, float) else key)
    return ", ".join(found)


def promote(version: tracking.Version) -> tracking.Version | None:
    """Makes a version the champion; returns the one that it replaces, if any.

    Raises:
        UserError: the version's lineage has a gap.
    """
    with tracking.answers():
        if missing := lineage.gaps(lineage.read(tracking.download(version))):
            raise UserError(
                f"{version.name} version {version.version} is not promoted, its lineage has gaps: {', '.join(missing)}"
            )
        client = tracking.connect()
        before = champion(version.name)
        if before is not None and before.version != version.version:
            _set_history(client, version.name, [*_history(client, version.name), before.version])
        client.set_registered_model_alias(version.name, tracking.CHAMPION, version.version)
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        client.set_model_version_tag(version.name, version.version, "promoted_at", now)
    return before


def rollback(name: str = tracking.MODEL_NAME) -> tuple[tracking.Version, tracking.Version]:
    """Makes the previous champion the champion again; returns (the one before the rollback, the one after).

    Raises:
        UserError: there is no champion, or none before it.
    """
    with tracking.answers():
        client = tracking.connect()
        now = champion(name)
        if now is None:
            raise UserError(f"model {name!r} has no {tracking.CHAMPION}: promote one first")
        history = _history(client, name)
        if not history:
            raise UserError(
                f"{name} version {now.version} is the first {tracking.CHAMPION}: there is none to go back to"
            )
        target = tracking.find_version(f"{name}/{history[-1]}")
        client.set_registered_model_alias(name, tracking.CHAMPION, target.version)
        _set_history(client, name, history[:-1])
    return now, target


def champion(name: str = tracking.MODEL_NAME) -> tracking.Version | None:
    """The champion, None if there is none."""
    return next((v for v in tracking.versions(name) if tracking.CHAMPION in v.aliases), None)


def _history(client: Any, name: str) -> list[str]:
    return json.loads(client.get_registered_model(name).tags.get(HISTORY_TAG, "[]"))


def _set_history(client: Any, name: str, history: list[str]) -> None:
    client.set_registered_model_tag(name, HISTORY_TAG, json.dumps(history))
