"""`mail-ris demo [--out runs/demo]`: the whole chain on generated scenes, with and without instance masks.

    OUT/scenes, OUT/store        the generated data set as published, and as a data store
    OUT/proposer, OUT/masks      a Mask R-CNN that never saw the evaluation images, and its instance masks
    OUT/runs, OUT/evaluations    two trainings and what came out of them on testA and testB
    OUT/promotions               evaluations for the gate, where there is a champion to compare with
    OUT/mlflow.db                runs and the registered model, unless MLFLOW_TRACKING_URI names another place
    OUT/report.html, report.json the figures, with pictures

Each step skips what is there already, so the same command continues an interrupted demo; `--fresh` starts anew. The
steps are the very stages that `mail-ris` offers, called with the arguments that the command line would give them.
"""

import contextlib
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from mail import addresses
from mail.data import files
from mail.data.store import DataStore
from mail.errors import UserError
from pipelines.claiming.claim import Claim, Ticket
from pipelines.cluster_session.session import connect, environment
from pipelines.demonstrating.record import Record
from pipelines.demonstrating.report import NETWORKS, SPLITS, print_table, write_report
from pipelines.ending import EndRequested, postponed
from pipelines.evaluating.config import EvaluationConfig
from pipelines.options import LocalTarget
from pipelines.precomputing.config import PrecomputeConfig
from pipelines.stage import Stage
from pipelines.stages.models import Promote
from pipelines.stages.predict import Predict
from pipelines.stages.prepare import PrepareSynthetic
from pipelines.terminal import say
from pipelines.training.config import TrainConfig
from pipelines.training.proposer_config import ProposerTrainingConfig

STATE = "demo.json"
FOLDERS = ("scenes", "store", "proposer", "masks", "runs", "evaluations", "promotions", "mlruns")
MADE = (*FOLDERS, STATE, "report.html", "report.json", "mlflow.db", "prediction.png")
EARLIER, MOVING = ".earlier", ".earlier.moving"  # a finished demo, until what --fresh began is finished as well
FEWEST_IMAGES = 40  # with fewer, a split may be empty


@dataclass(kw_only=True)
class Demo(Stage):
    """The whole chain on a generated data set: masks, training with and without them, evaluation, champion."""

    out: LocalTarget = Path("runs/demo")
    """Folder for everything that the demo makes."""

    fresh: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Begin anew; an earlier demo in --out stays, in .earlier, until the new one is done. Otherwise it is continued."""

    images: int = 3000
    """Generated scenes, evaluation splits included."""

    seed: int = 0
    """Seed of scenes, proposer and networks."""

    preset: str = "tiny"
    """Network and recipe."""

    steps: int | None = None
    """Training steps of each of the two networks (default: the preset's)."""

    proposer_steps: int | None = None
    """Training steps of the Mask R-CNN (default: its preset's)."""

    pictures: int = 8
    """Expressions with pictures in the report, chosen at random, and half as many where the model fails most."""

    def __post_init__(self) -> None:
        self._begun: Record | None = None  # once an earlier demo is out of the way
        super().__post_init__()

    def plan(self) -> dict[str, Any]:
        record = self._record()
        steps = [name for name, _ in self._steps(record)]
        return {
            "steps": steps,
            "done_already": [name for name in steps if record.is_done(name)],
            "mlflow": addresses.without_secrets(_tracking_uri(self.out)),
            "report": str(self.out / "report.html"),
        }

    def run(self) -> dict[str, Any]:
        """Runs what is not done yet and writes the report; returns what `report.json` holds."""
        with Claim(self.out, f"the demo in {self.out}", "another --out") as claim:
            return self._run(claim)

    def tell_kept(self, end: EndRequested) -> None:
        if self._begun is None:
            end.kept = "nothing was begun"
            return
        end.without = ("--fresh",)  # which would begin once more
        within = f", {end.kept}" if end.kept else ""
        end.kept = f"{len(self._begun.seconds)} of {len(self._steps(self._begun))} parts are done{within}"

    def _run(self, claim: Ticket) -> dict[str, Any]:
        begun = time.monotonic()
        record = self._record()
        if self.fresh or (self.out / MOVING).exists():
            with postponed():
                self.set_aside()
            record = self._record()
        self._begun, steps = record, self._steps(record)
        connected = False
        with contextlib.ExitStack() as stack:

            def before(name: str) -> None:
                nonlocal connected
                if name != "prepare" and not connected:
                    stack.enter_context(connect())  # one Ray for all that follows
                    connected = True
                claim.check()

            stack.enter_context(environment(MLFLOW_TRACKING_URI=_tracking_uri(self.out)))
            record.run_all(steps, before)
            facts = {
                "seconds": record.seconds,
                "continued": record.continued,
                "settings": record.settings,
                "steps": record.results["train with masks"]["steps"],
                "model_version": record.results["train with masks"]["version"],
                "prediction": record.results["predict"],
            }
            claim.check()
            runs = {name: record.results[f"train {name.replace('-', ' ')}"]["run_id"] for name in NETWORKS}
            report = write_report(self.out, facts, runs, self.pictures)
        shutil.rmtree(self.out / EARLIER, ignore_errors=True)
        print_table(report)
        say(f"{time.monotonic() - begun:.0f} s in all; pictures are in {self.out / 'report.html'}")
        print(f"wrote {self.out / 'report.html'} and {self.out / 'report.json'}", flush=True)
        return report

    def _record(self) -> Record:
        if self.images < FEWEST_IMAGES:
            raise UserError(f"--images {self.images}: the demo needs at least {FEWEST_IMAGES} for its four splits")
        files.check_writable(self.out)
        settings = {k: v for k, v in asdict(self).items() if k not in ("out", "fresh", "dry_run", "pictures")}
        if self.fresh and (self.out / STATE).exists():
            return Record(self.out / STATE, settings)
        # what was being moved away is a demo's
        made = () if (self.out / MOVING).exists() else MADE
        return Record.open(self.out / STATE, settings, made=made)

    def set_aside(self) -> None:
        """Moves what a demo made, and nothing else that may lie in the folder; goes on where it was killed in that.

        One that did not come to its end gives way to the finished one that it was to replace.
        """
        aside, moving = self.out / EARLIER, self.out / MOVING
        made = [self.out / name for name in MADE if os.path.lexists(self.out / name)]
        if aside.exists() and not moving.exists() and not (self.out / "report.json").exists():
            for path in made:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        elif made or moving.exists():
            moving.mkdir(exist_ok=True)
            for path in made:
                path.replace(moving / path.name)
            shutil.rmtree(aside, ignore_errors=True)
            moving.replace(aside)

    def _steps(self, record: Record) -> list[tuple[str, Callable[[], Any]]]:
        return [
            ("prepare", self._prepare),
            ("train-proposer", self._train_proposer),
            ("precompute", self._precompute),
            ("train with masks", lambda: self._train("with-masks")),
            ("train without masks", lambda: self._train("without-masks")),
            ("evaluate", self._evaluate),
            ("promote", lambda: self._promote(record)),
            ("predict", self._predict),
        ]

    def _prepare(self) -> None:
        for name in ("scenes", "store"):  # a store is complete or nothing
            shutil.rmtree(self.out / name, ignore_errors=True)
        PrepareSynthetic(
            out=str(self.out / "store"), root=self.out / "scenes", images=self.images, seed=self.seed
        ).run()

    def _train_proposer(self) -> None:
        from pipelines.training.proposer import train_proposer

        if (self.out / "proposer" / "proposer.json").exists():  # killed after it was finished
            return
        train_proposer(
            ProposerTrainingConfig(
                instances=str(self.out / "scenes" / "synthetic" / "instances.json"),
                images=str(self.out / "scenes" / "images" / "train2014"),
                out=str(self.out / "proposer"),
                exclude_store=str(self.out / "store"),
                steps=self.proposer_steps,
                seed=self.seed,
            )
        )

    def _precompute(self) -> None:
        from pipelines.precomputing.precompute import Precomputation

        data, proposer, masks = (str(self.out / name) for name in ("store", "proposer", "masks"))
        Precomputation.open(PrecomputeConfig(data=data, proposer=proposer, masks=masks)).run()

    def _train(self, network: str) -> dict[str, Any]:
        from pipelines.training.driver import train

        masks = network == "with-masks"
        config = TrainConfig(
            preset=self.preset,
            data=str(self.out / "store"),
            masks=str(self.out / "masks") if masks else None,
            proposals="table" if masks else "none",
            proposer=str(self.out / "proposer") if masks else None,
            name=network,
            out=str(self.out / "runs" / network),
            resume=True,
            steps=self.steps,
            seed=self.seed,
            register=masks,
        )
        result = train(config)
        return {key: result[key] for key in ("version", "run_id", "steps")}

    def _evaluate(self) -> None:
        from pipelines.evaluating.evaluation import evaluate

        for network in NETWORKS:
            for split in SPLITS:
                folder = self.out / "evaluations" / network / split
                if (folder / "metrics.json").exists():
                    continue
                config = EvaluationConfig(
                    model=str(self.out / "runs" / network / "model"),
                    data=str(self.out / "store"),
                    masks=str(self.out / "masks") if network == "with-masks" else None,
                    split=split,
                    out=folder,
                    workers=0,  # some hundred small images: in this process before actors have started
                )
                evaluate(config)

    def _promote(self, record: Record) -> None:
        version = record.results["train with masks"]["version"]
        if version is None:
            raise UserError("the model is not registered (see above): mend MLflow, then `mail-ris demo --fresh`")
        # compared where an MLflow server of one's own has a champion; the first one has nothing to be compared with
        Promote(
            model=str(version),
            split=SPLITS,
            data=str(self.out / "store"),
            masks=str(self.out / "masks"),
            evaluations=(self.out / "evaluations",),
            out=self.out / "promotions",
            workers=0,
        ).run()

    def _predict(self) -> dict[str, Any]:
        """The champion on the first photo of testA, from the file, proposer included."""
        store = DataStore(self.out / "store")
        chosen = store.expressions(["testA"], ["image_id", "text"]).slice(0, 1).to_pylist()[0]
        number = int(chosen["image_id"].rpartition("/")[2])
        photo = self.out / "scenes" / "images" / "train2014" / f"synthetic_{number:012d}.jpg"
        Predict(
            model="models:/mail-ris@champion",
            image=(photo,),
            text=chosen["text"],
            out=self.out / "prediction.png",
            overlay=True,
        ).run()
        return {"image": str(photo), "text": chosen["text"]}


def _tracking_uri(out: Path) -> str:
    return os.environ.get("MLFLOW_TRACKING_URI") or addresses.sqlite_uri(out / "mlflow.db")
