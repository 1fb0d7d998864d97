"""`mail-ris reproduce --download DIR`: the table of the paper, with our figures beside it.

    OUT/stores/refcoco-unc, ...    the data sets
    OUT/proposer, OUT/masks        a Mask R-CNN that saw no evaluation image of any of them, and its masks of all
    OUT/runs/refcoco-unc-seed0     trainings, one a data set and seed; with --ablate also without masks
    OUT/evaluations/RUN/SPLIT      metrics.json (`original`), metrics-lavt.json, predictions, gallery
    OUT/table.md, table.json, report.html
    OUT/mlflow.db                  runs, all below one, unless MLFLOW_TRACKING_URI names another place

The steps are the stages that `mail-ris` offers, called with the arguments that the command line would give them. Killed
anywhere, the same command goes on: what is done is passed over, what was begun continues by itself.
"""

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from mail import addresses, lineage
from mail.data import files
from mail.data.refer import find_image_folder
from mail.data.sets import DATA_SETS
from mail.data.sets.remote import PHOTOS, RemoteFile
from mail.data.store import DataStore
from mail.errors import UserError
from pipelines.claiming.claim import Claim, Ticket
from pipelines.cluster_session.session import connect, environment
from pipelines.demonstrating.record import Record
from pipelines.ending import EndRequested
from pipelines.precomputing.config import PrecomputeConfig
from pipelines.reproducing.config import ReproduceConfig
from pipelines.reproducing.estimate import needs
from pipelines.reproducing.evaluations import evaluate_all
from pipelines.reproducing.paper import DATA, PART_OF, ROWS, SHARED_PHOTOS, Row, chosen, parts
from pipelines.reproducing.table import WITH, WITHOUT, Place, collect, notes_on, write_table
from pipelines.stage import Stage
from pipelines.stages.prepare.published import PUBLISHED
from pipelines.terminal import done, say
from pipelines.training.config import TrainConfig
from pipelines.training.proposer_config import ProposerTrainingConfig
from pipelines.training.shares import worker_range

STATE = "reproduce.json"
NOT_THE_RESULT = ("out", "dry_run", "workers", "evaluation_workers", "gpu_speed", "gpu_price", "download", "mirror")


@dataclass(kw_only=True)
class Reproduce(ReproduceConfig, Stage):
    """The table of the paper in one command: data, proposer, masks, trainings, evaluations, figures beside figures."""

    def plan(self) -> dict[str, Any]:
        record, rows = self._record(), self._rows
        steps = [name for name, _ in self._steps(record)]
        found: dict[str, Any] = {"steps": steps, "done_already": [name for name in steps if record.is_done(name)]}
        if self.download is not None:
            from pipelines.downloading.download import plan

            found["downloads"] = plan(self._remote(), self.download, self.mirror)
        return found | needs(self, rows) | {"table": self._at("table.md")}

    def run(self) -> dict[str, Any]:
        """Does what is not done yet and writes the table; returns what `table.json` holds."""
        with Claim(self.out, f"the reproduction in {self.out}", "another --out") as claim:
            return self._run(claim)

    def tell_kept(self, end: EndRequested) -> None:
        if not self._has(STATE):
            end.kept = "nothing was begun"
            return
        record, within = self._record(), f", {end.kept}" if end.kept else ""
        end.flags = ()  # every step goes on by itself
        end.kept = f"{len(record.seconds)} of {len(self._steps(record))} parts are done{within}"

    @property
    def _rows(self) -> tuple[Row, ...]:
        return chosen(self.rows)

    @property
    def _networks(self) -> tuple[str, ...]:
        return (WITH, WITHOUT) if self.ablate else (WITH,)

    @property
    def _data(self) -> Path:
        """Folder of the published files."""
        folder = self.root if self.download is None else self.download
        if folder is None or None not in (self.root, self.download):
            raise UserError("give --root, the folder of the published files, or --download, where they are fetched to")
        return folder

    def _record(self) -> Record:
        if self.seeds < 1:
            raise UserError("--seeds must be at least 1")
        _ = self._data, self._rows
        files.check_writable(self.out)
        given = {k: str(v) for k, v in asdict(self).items() if k not in NOT_THE_RESULT} | {"root": str(self._data)}
        return Record.open(self._at(STATE), given, "reproduction", "choose another --out")

    def _run(self, claim: Ticket) -> dict[str, Any]:
        from pipelines.registry.run_log import RunLog

        record = self._record()
        with contextlib.ExitStack() as stack:
            if "MLFLOW_TRACKING_URI" not in os.environ and addresses.remote_path(self.out) is None:
                stack.enter_context(environment(MLFLOW_TRACKING_URI=addresses.sqlite_uri(Path(self.out) / "mlflow.db")))
            connected = False

            def before(name: str) -> None:
                nonlocal connected
                if not connected and name not in ("download", "record") and not name.startswith("prepare"):
                    stack.enter_context(connect())  # one Ray for all that follows
                    connected = True
                claim.check()

            record.run_all(self._steps(record), before)
            claim.check()
            other = self._other_data()
            lines = self._lines(record, other)
            text = write_table(self.out, lines, self._facts(record, other))
            log = RunLog(record.results["record"]["run_id"], say)
            figures = {f"{line['key']}/{line['protocol']}": line["ours"] for line in lines if line["masks"]}
            log.metrics([{"step": 0} | {k: v for k, v in figures.items() if v is not None}], "oIoU/")
            log.text(text, "table.md")
            log.close()
        print(text, flush=True)
        done(f"the table is in {self._at('table.md')}, with pictures in {self._at('report.html')}")
        return json.loads(files.read_bytes(*files.resolve(self._at("table.json"))))

    def _at(self, *parts: str) -> str:
        return addresses.join(self.out, *parts)

    def _has(self, *parts: str) -> bool:
        return files.exists(*files.resolve(self._at(*parts)))

    def _steps(self, record: Record) -> list[tuple[str, Callable[[], Any]]]:
        needed = parts(self._rows)
        steps: list[tuple[str, Callable[[], Any]]] = []
        if self.download is not None:
            steps.append(("download", self._download))
        steps += [(f"prepare {part}", partial(self._prepare, row)) for part, row in needed.items()]
        steps.append(("record", partial(self._begin_record, record)))
        if self.proposer is None:
            steps.append(("train-proposer", self._train_proposer))
        steps += [(f"precompute {part}", partial(self._precompute, part)) for part in needed]
        for place in self._trainings():
            steps.append((f"train {place.name}", partial(self._train, record, place)))
            steps.append((f"evaluate {place.name}", partial(self._evaluate, place)))
        return steps

    def _trainings(self) -> Iterator[Place]:
        for seed in range(self.seeds):
            for part in parts(self._rows):
                for network in self._networks:
                    yield Place(self.out, part, network, seed)

    def _remote(self) -> list[RemoteFile]:
        found = dict.fromkeys(file for name in DATA for file in DATA_SETS[name].remote)
        return [file for file in found if self.images is None or file.into != PHOTOS]

    def _download(self) -> None:
        from pipelines.downloading.download import download

        for licence in dict.fromkeys(DATA_SETS[name].licence for name in DATA):
            say(licence)
        download(self._remote(), self._data, self.mirror)

    def _store(self, part: str) -> str:
        return self._at("stores", part)

    def _prepare(self, row: Row) -> None:
        if self._has("stores", row.part, "store.json"):  # killed after it was finished
            return
        options: dict[str, Any] = {"root": self._data, "images": self.images, "out": self._store(row.part)}
        if len(DATA_SETS[row.data_set].published) > 1:
            options["split_by"] = row.split_by
        PUBLISHED[row.data_set](**options).run()

    def _begin_record(self, record: Record) -> dict[str, str]:
        from pipelines.registry.run_log import start_run

        key = f"reproduce {self.out} {DataStore(self._store(next(iter(parts(self._rows))))).digest}"
        return {"run_id": start_run("reproduce", record.settings, {"kind": "reproduction"}, key=key)}

    def _train_proposer(self) -> None:
        from pipelines.training.proposer import train_proposer

        whole = self._data / "annotations" / "instances_train2014.json"
        own = whole if whole.is_file() else self._data / "refcoco" / "instances.json"
        train_proposer(
            ProposerTrainingConfig(
                instances=self.instances or str(own),
                images=str(find_image_folder(self._data, self.images)),
                out=self._at("proposer"),
                preset=self.proposer_preset,
                steps=self.proposer_steps,
                weights=self.proposer_weights,
                weights_images=self.proposer_weights_images,
                exclude_eval_of=",".join(DATA),
                refs_root=self._data,
                workers=max(1, worker_range(self.workers)[0]),
            )
        )

    @property
    def _proposer(self) -> str:
        return self.proposer or self._at("proposer")

    @property
    def _masks(self) -> str:
        return self._at("masks")

    def _precompute(self, part: str) -> None:
        from pipelines.precomputing.precompute import Precomputation

        Precomputation.open(PrecomputeConfig(data=self._store(part), proposer=self._proposer, masks=self._masks)).run()

    def _train(self, record: Record, place: Place) -> dict[str, Any]:
        from pipelines.training.driver import train

        masks = place.network == WITH
        result = train(
            TrainConfig(
                preset=self.preset,
                data=self._store(place.part),
                masks=self._masks if masks else None,
                proposals="table" if masks else "none",
                proposer=self._proposer if masks else None,
                name=place.name,
                out=self._at("runs", place.name),
                resume=True,
                steps=self.steps,
                seed=place.seed,
                pretrained=self.pretrained,
                tokenizer=self.tokenizer,
                workers=self.workers,
                parent_run=record.results["record"]["run_id"],
                register=masks,
                allow_leaky=place.part == SHARED_PHOTOS,
            )
        )
        return {key: result[key] for key in ("version", "run_id", "steps")}

    def _evaluate(self, place: Place) -> None:
        splits = dict.fromkeys(row.split for row in self._rows if row.part == place.part)
        config = {
            "data": self._store(place.part),
            "masks": self._masks if place.network == WITH else None,
            "workers": self.evaluation_workers,
            "allow_leaky": place.part == SHARED_PHOTOS,
        }
        evaluate_all(place, tuple(splits), self._at("runs", place.name, "model"), config)

    def _lines(self, record: Record, other: list[str]) -> list[dict[str, Any]]:
        seconds = {
            p.name: sum(record.seconds[f"{do} {p.name}"] for do in ("train", "evaluate")) for p in self._trainings()
        }
        asked = {row.key for row in self._rows}
        lines = collect(self.out, ROWS, self.seeds, self._networks, seconds)
        return [
            (line if line["key"] in asked else line | {"ours": None})
            | {"published_data": PART_OF[line["key"]] not in other}
            for line in lines
        ]

    def _other_data(self) -> list[str]:
        """The data stores that do not have the published sizes."""
        return [
            part
            for part, row in parts(self._rows).items()
            if DATA_SETS[row.data_set].differences(row.split_by, DataStore(self._store(part)).splits)
        ]

    def _facts(self, record: Record, other: list[str]) -> dict[str, Any]:
        stores = {part: DataStore(self._store(part)) for part in parts(self._rows)}
        steps = sorted({record.results[f"train {place.name}"]["steps"] for place in self._trainings()})
        from mail.model import find_preset

        origin = self.pretrained or find_preset(self.preset).pretrained or "none"
        return {
            "network": f"{self.preset}, {', '.join(map(str, steps))} steps, begun with weights {origin}",
            "proposer": self._proposer,
            "data": ", ".join(f"{store.name} {store.digest[:12]}" for store in stores.values()),
            "code": lineage.code_version(),
            "interval": "half the width of the 95 % interval over seeds (Student's t)",
            **notes_on(self._rows, other),
        }
