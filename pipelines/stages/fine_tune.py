"""`mail-ris fine-tune --from MODEL --expressions FILE --images DIR --name N`: a better model, and by how much.

    OUT/store, OUT/masks         the photos and sentences as a data store, and the model's own proposals on them
    OUT/run                      the training, with the new MODEL in OUT/run/model
    OUT/evaluations/SPLIT        the new model and the one before, on photos held out and on the data of the one before
    OUT/report.html, report.json what it has brought, with the paired interval and pictures

The steps are the stages that `mail-ris` offers, called with the arguments that the command line would give them. Killed
anywhere, the same command goes on: a step that is done is passed over, one that was begun continues by itself.
"""

import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mail.data.schema import VALIDATION_SPLIT, is_evaluation_split
from mail.data.store import DataStore
from mail.errors import UserError
from pipelines.claiming.claim import Claim, Ticket
from pipelines.demonstrating.record import Record
from pipelines.ending import EndRequested
from pipelines.evaluating.config import EvaluationConfig
from pipelines.finetuning.config import FineTuneConfig
from pipelines.precomputing.config import PrecomputeConfig
from pipelines.stage import Stage
from pipelines.stages.models import Promote
from pipelines.stages.prepare.custom import PrepareCustom
from pipelines.terminal import done, say
from pipelines.training.config import TrainConfig

STATE = "fine-tune.json"
NOT_THE_RESULT = ("out", "dry_run", "promote", "max_forgotten", "pictures", "workers", "threads")


@dataclass(kw_only=True)
class FineTune(FineTuneConfig, Stage):
    """Your own photos and sentences, and a trained model -> a better model, and a report of by how much."""

    def plan(self) -> dict[str, Any]:
        record = self._record()
        steps = [name for name, _ in self._steps(record)]
        return {
            "steps": steps,
            "done_already": [name for name in steps if record.is_done(name)],
            "model": str(self._model(record)),
            "data": self._data,
            "report": str(self.folder / "report.html"),
        }

    def run(self) -> dict[str, Any]:
        """Does what is not done yet and writes the report; returns what `report.json` holds."""
        with Claim(self.folder, f"the fine-tuning in {self.folder}", "another --out") as claim:
            return self._run(claim)

    def tell_kept(self, end: EndRequested) -> None:
        if not (self.folder / STATE).exists():
            end.kept = "nothing was begun"
            return
        record, within = self._record(), ""
        if "train" in record.begun and not record.is_done("train"):
            from pipelines.training.kept import tell_run

            tell_run(end, self._training(record))
            end.flags, within = (), f", {end.kept}"  # it resumes by itself
        end.kept = f"{len(record.seconds)} of {len(self._steps(record))} parts are done{within}"

    def _run(self, claim: Ticket) -> dict[str, Any]:
        from pipelines.finetuning.report import write_report

        record = self._record()
        record.run_all(self._steps(record), lambda _: claim.check())
        claim.check()
        trained = record.results["train"]
        facts = {
            "name": self.name,
            "parent": record.results["check"]["address"],
            "model": str(self.folder / "run" / "model"),
            "version": trained["version"],
            "steps": trained["steps"],
            "promoted": record.is_done("promote"),
            "seconds": record.seconds,
        }
        folders = {split: self._evaluation(split) for split in self._splits()}
        report = write_report(self.folder, self._data, self._masks(record), folders, facts, self.pictures)
        for line in report["sentences"]:
            say(line)
        done(f"fine-tuned {self.name}: {facts['model']}; {self.folder / 'report.html'} shows what it has brought")
        return report

    def _record(self) -> Record:
        if (self.data is None) == (self.expressions is None):
            raise UserError("give photos and sentences (--expressions FILE --images DIR), or a data store (--data)")
        given = {k: str(v) for k, v in asdict(self).items() if k not in NOT_THE_RESULT}
        return Record.open(self.folder / STATE, given, "fine-tuning", "choose another --out")

    def _steps(self, record: Record) -> list[tuple[str, Callable[[], Any]]]:
        steps: list[tuple[str, Callable[[], Any]]] = [("check", self._check)]
        if self.data is None:
            steps.append(("prepare", self._prepare))
        steps += [
            ("precompute", lambda: self._precompute(record)),
            ("train", lambda: self._train(record)),
            ("evaluate", lambda: self._evaluate(record)),
        ]
        return [*steps, *([("promote", lambda: self._promote(record))] if self.promote else [])]

    @property
    def _data(self) -> str:
        return self.data or str(self.folder / "store")

    def _custom(self) -> PrepareCustom:
        """The only place that knows how own photos are prepared."""
        given: dict[str, Any] = {"expressions": self.expressions, "images": self.images, "instances": self.instances}
        return PrepareCustom(**given, out=str(self.folder / "store"), name=self.name)

    def _check(self) -> dict[str, Any]:
        """Whether model and data can be used; the address that means this very model from here on."""
        from pipelines.training.parentage import lasting_address

        self._model(None)
        if self.data is None:
            shutil.rmtree(self.folder / "store", ignore_errors=True)  # no store of this chain is finished
            found = self._custom().checked(str(self.expressions))
            found.problems.raise_if_any(self.expressions, "`mail-ris prepare check` prints every one")
        return {"address": lasting_address(self.from_)}

    def _prepare(self) -> None:
        shutil.rmtree(self.folder / "store", ignore_errors=True)  # one that was cut short, or not noted as done
        self._custom().run()

    def _model(self, record: Record | None) -> Path:
        from mail.model.folder import check_model_folder
        from pipelines.registry.models import resolve_model

        known = record.results.get("check") if record is not None else None
        return check_model_folder(resolve_model(known["address"] if known else self.from_))

    def _masks(self, record: Record) -> str | None:
        """The mask table of the data; None where the network reads none."""
        return str(self.folder / "masks") if record.results["precompute"]["proposer"] else None

    def _precompute(self, record: Record) -> dict[str, Any]:
        from mail.inference import BUNDLED_PROPOSER
        from mail.model import MailConfig
        from pipelines.precomputing.precompute import Precomputation

        model = self._model(record)
        if not MailConfig.from_pretrained(model).uses_instances:
            say("the model reads no instance masks: nothing to precompute")
            return {"proposer": None}
        proposer = self.proposer or str(model / BUNDLED_PROPOSER)
        if self.proposer is None and not (model / BUNDLED_PROPOSER).is_dir():
            raise UserError(f"{self.from_} brings no proposer along: name the one that it was trained with, --proposer")
        config = PrecomputeConfig(data=self._data, proposer=proposer, masks=str(self.folder / "masks"))
        Precomputation.open(config).run()
        return {"proposer": proposer}

    def _training(self, record: Record) -> TrainConfig:
        masks = self._masks(record)
        return TrainConfig(
            from_=record.results["check"]["address"],
            data=self._data,
            masks=masks,
            proposals="table" if masks else "none",
            proposer=self.proposer,
            name=self.name,
            out=str(self.folder / "run"),
            resume=True,
            workers=self.workers,
            threads=self.threads,
            steps=self.steps,
            learning_rate=self.learning_rate,
            patience=self.patience,
            seed=self.seed,
            rehearse=self.rehearse,
            rehearse_masks=self.rehearse_masks,
            share=self.share,
            allow_leaky=self.allow_leaky,
        )

    def _train(self, record: Record) -> dict[str, Any]:
        from pipelines.training.driver import train

        result = train(self._training(record))
        return {key: result[key] for key in ("version", "run_id", "steps")}

    def _splits(self) -> tuple[str, ...]:
        store = DataStore(self._data)
        for split in self.split:
            store.check_split(split)
        held_out = [s for s in store.splits if is_evaluation_split(s)]
        chosen = self.split or tuple(s for s in held_out if s != VALIDATION_SPLIT) or tuple(held_out)
        if not chosen:
            raise UserError(
                f"{store.uri} holds no photos out: give some of them the split test, so that it can be told"
            )
        return chosen

    def _evaluation(self, split: str) -> Path:
        return self.folder / "evaluations" / split

    def _evaluate(self, record: Record) -> None:
        from pipelines.evaluating.against_parent import evaluate_against_parent

        for split in self._splits():
            config = EvaluationConfig(
                model=str(self.folder / "run" / "model"),
                data=self._data,
                masks=self._masks(record),
                split=split,
                out=self._evaluation(split),
                workers=0,
                allow_leaky=self.allow_leaky,
            )
            evaluate_against_parent(config)

    def _promote(self, record: Record) -> None:
        version = record.results["train"]["version"]
        if version is None:
            raise UserError(
                f"the model is not registered (see above): `mail-ris models register {self.folder / 'run'}`"
            )
        Promote(
            model=str(version),
            split=self._splits(),
            data=self._data,
            masks=self._masks(record),
            evaluations=(self.folder / "evaluations",),
            out=self.folder / "promotions",
            max_forgotten=self.max_forgotten,
            workers=0,
        ).run()
