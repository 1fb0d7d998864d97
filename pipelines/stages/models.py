"""`mail-ris models list | show | audit | register | promote | rollback`: the registered models, and the champion.

The champion is the version with the alias `champion`; `predict --model models:/mail-ris@champion` uses it. Earlier
champions are remembered in order (`pipelines.registry.champions`), so that `rollback` may be called again and again.
What a candidate must show is in `pipelines.registry.promotion`.
"""

import dataclasses
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from mail import lineage
from mail.addresses import without_secrets
from mail.errors import UserError
from pipelines.evaluating.tables import print_comparison
from pipelines.options import Address, LocalPath, LocalTarget, ModelAddress
from pipelines.registry.client import registry_uri
from pipelines.registry.decision import Terms
from pipelines.registry.evaluation_notes import evaluation_lines, noted, scores_line
from pipelines.registry.models import (
    CHAMPION,
    MODEL_NAME,
    SCHEME,
    Version,
    broken_links,
    find_version,
    resolve_model,
    versions,
)
from pipelines.registry.promotion import champion, decisions, previous_champion, promote, rollback
from pipelines.stage import Stage
from pipelines.stages.audit_model import AuditModel
from pipelines.terminal import done

if TYPE_CHECKING:
    from pipelines.evaluating.comparer import EvaluationComparer


@dataclass(kw_only=True)
class ListModels(Stage):
    """Lists the versions of a registered model, newest first."""

    name: str = MODEL_NAME
    """The registered model."""

    json: bool = False
    """Print JSON instead of a table."""

    def plan(self) -> dict[str, Any]:
        return {"registry_uri": without_secrets(registry_uri())}

    def run(self) -> list[Version]:
        found = versions(self.name)
        if self.json:
            print(json.dumps([dataclasses.asdict(v) | {"evaluations": noted(v)} for v in found], indent=2))
            return found
        if not found:
            done(f"no versions of {self.name} at {without_secrets(registry_uri())}: `mail-ris train` registers them")
            return found
        rows = [("version", "alias", "created", "label", "oIoU", "run")]
        for version in found:
            created = time.strftime("%Y-%m-%d %H:%M", time.localtime(version.created))
            label = "leaky" if version.tags.get("leaky") == "true" else "clean"
            alias = ", ".join(version.aliases) or "-"
            rows.append((version.version, alias, created, label, scores_line(version) or "-", version.run_id or "-"))
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        for row in rows:
            print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        return found


@dataclass(kw_only=True)
class ShowModel(Stage):
    """Shows where a model comes from (run, masks, proposer, data, code) and what was decided about it."""

    model: Annotated[ModelAddress, tyro.conf.Positional] = f"{SCHEME}{MODEL_NAME}@{CHAMPION}"
    """models:/NAME@ALIAS, models:/NAME/NUMBER, or a model folder."""

    json: bool = False
    """Print the whole lineage as JSON instead of a tree."""

    def plan(self) -> dict[str, Any]:
        return {"model": str(resolve_model(self.model))}

    def run(self) -> dict[str, Any]:
        folder = resolve_model(self.model)
        origin = lineage.read(folder)
        missing, broken = lineage.gaps(origin), broken_links(origin, folder)
        version = find_version(self.model) if self.model.startswith(SCHEME) else None
        decided = decisions(version) if version else []
        if self.json:
            found = {"model": self.model, "lineage": origin, "gaps": missing, "broken": broken, "decisions": decided}
            print(json.dumps(found | {"evaluations": noted(version) if version else []}, indent=2))
            return origin
        title = self.model
        if version is not None:
            title = f"{version.name} version {version.version} {' '.join('@' + a for a in version.aliases)}".rstrip()
        print(lineage.tree(origin, title, broken))
        for line in evaluation_lines(version) if version else ():
            print(f"evaluated: {line}")
        for each in decided:
            against = f" against version {each['against']}" if each["against"] else ""
            reasons = f": {'; '.join(each['reasons'])}" if each["reasons"] else ""
            print(f"{each['time']} {each['decision']}{against}{reasons}")
        if missing or broken:
            print(f"the chain has gaps: {', '.join([*missing, *broken])}")
        return origin


@dataclass(kw_only=True)
class Register(Stage):
    """Registers the model of a finished run, or a model folder, and gives MLflow what it lacks of the run's record."""

    folder: Annotated[Address, tyro.conf.Positional]
    """Folder of a finished run, or a MODEL folder (local path or s3://)."""

    name: str = MODEL_NAME
    """The registered model."""

    def plan(self) -> dict[str, Any]:
        return {"folder": self.folder, "registry_uri": without_secrets(registry_uri())}

    def run(self) -> int:
        from pipelines.training.catching_up import register_folder

        version = register_folder(self.folder, self.name)
        done(f"{self.folder} is registered as {self.name} version {version}")
        return version


@dataclass(kw_only=True)
class Promote(Stage):
    """Makes a version the champion, if it passes the gates: whole lineage, clean label, not worse than the champion on
    the same expressions, nor than the model that it goes on from on its own data, and a fresh process can use it. The
    decision is recorded on the version either way."""

    model: Annotated[str, tyro.conf.Positional]
    """models:/NAME/NUMBER, models:/NAME@ALIAS, or a version's number."""

    split: tuple[str, ...] = ()
    """Splits to compare on, for example testA testB; every one must pass. Needed unless there is no champion yet."""

    data: Address | None = None
    """Data store to evaluate on, where no evaluation of the version on it is found (local path or s3://)."""

    masks: Address | None = None
    """Mask table for such evaluations."""

    evaluations: tuple[LocalPath, ...] = ()
    """Folders that `mail-ris evaluate` wrote, or folders of them, to use instead of evaluating again. Those that were
    made of registered versions are found by themselves."""

    out: LocalTarget = Path("runs/promotions")
    """Folder for new evaluations; an interrupted promotion continues there."""

    protocol: str = "original"
    """How pixels are counted: original, lavt, cris, rela."""

    figure: Literal["both", "mIoU", "oIoU"] = "both"
    """Which figure must not be worse: mIoU, oIoU, or both of them."""

    min_gain: float = -0.5
    """Points that the lower bound of the paired bootstrap's interval must be above (0: better beyond chance)."""

    max_forgotten: float | None = None
    """Of a model that goes on from another one: points that it may have lost to that one on the data which that one was
    trained on, at the worse end of the interval. Without it, what is lost is shown."""

    allow_leaky: str | None = None
    """Promote a leaky model all the same; the text is the reason, which is recorded."""

    workers: int | None = None
    """Actors of such evaluations (as `mail-ris evaluate --workers`)."""

    name: str = MODEL_NAME
    """The registered model that a bare number belongs to."""

    def __post_init__(self) -> None:
        # callers in Python may name one split or folder
        self.split = (self.split,) if isinstance(self.split, str) else tuple(self.split)
        self.evaluations = (self.evaluations,) if isinstance(self.evaluations, str | Path) else tuple(self.evaluations)
        super().__post_init__()

    def _version(self) -> Version:
        return find_version(f"{self.name}/{self.model}" if self.model.isdigit() else self.model)

    def plan(self) -> dict[str, Any]:
        version, comparer = self._version(), self._comparer()
        before = champion(version.name)
        sides = [version] if before is None else [version, before]
        return {
            "promote": version.version,
            "replaces": before.version if before else None,
            "to_evaluate": [f"{v.version} on {s}" for s in self.split for v in sides if comparer.missing(v, s)],
        }

    def run(self) -> Version:
        if self.allow_leaky is not None and not self.allow_leaky.strip():
            raise UserError("--allow-leaky needs the reason, which is recorded with the decision")
        version = self._version()
        if CHAMPION in version.aliases:
            done(f"{version.name} version {version.version} is the {CHAMPION} already")
            return version
        figures = ("mIoU", "oIoU") if self.figure == "both" else (self.figure,)
        gain, lost = self.min_gain, self.max_forgotten
        terms = Terms(
            splits=self.split, figures=figures, min_gain=gain, max_forgotten=lost, allow_leaky=self.allow_leaky
        )
        decision = promote(version, terms, self._comparer())
        for comparison in decision.comparisons:
            print_comparison(comparison, version.version, decision.against)
        shown = {comparison.folders for comparison in decision.comparisons}  # the champion may be the parent
        for comparison in (*decision.gained, *decision.forgetting):
            if comparison.folders not in shown:
                print_comparison(comparison, version.version, "parent")
                shown.add(comparison.folders)
        if not decision.promoted:
            raise UserError(f"{version.name} version {version.version} is not promoted: {'; '.join(decision.reasons)}")
        replaced = f", it was version {decision.against}" if decision.against else ""
        done(f"{version.name} version {version.version} is the {CHAMPION}{replaced}")
        return version

    def _comparer(self) -> "EvaluationComparer":
        from pipelines.evaluating.comparer import EvaluationComparer

        return EvaluationComparer(
            protocol=self.protocol,
            data=self.data,
            masks=self.masks,
            evaluations=self.evaluations,
            out=self.out,
            workers=self.workers,
            allow_leaky=self.allow_leaky is not None,
        )


@dataclass(kw_only=True)
class Rollback(Stage):
    """Makes the previous champion the champion again."""

    name: str = MODEL_NAME
    """The registered model."""

    def plan(self) -> dict[str, Any]:
        reign, target, _ = previous_champion(self.name)
        return {"champion": reign.champion, "back_to": target.version}

    def run(self) -> Version:
        before, after = rollback(self.name)
        done(f"{self.name} version {after.version} is the {CHAMPION} again, it was version {before.version}")
        return after


MODELS: dict[str, type[Stage]] = {
    "list": ListModels,
    "show": ShowModel,
    "audit": AuditModel,
    "register": Register,
    "promote": Promote,
    "rollback": Rollback,
}
