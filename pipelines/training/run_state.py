"""The folder of a training run: whether it is new, unfinished or finished, and where to go on."""

import json
import shutil
import tempfile
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mail import addresses, json_text, lineage
from mail.data import files
from mail.data.filling import naming
from mail.errors import UserError
from mail.inventory import FILE, check_inventory, write_inventory
from mail.model.configuration import MailConfig
from mail.training.checkpoint import MANIFEST, Saved, find_best, find_latest, prune
from mail.training.curves import FILE as CURVES
from mail.training.going_on import find_complete, find_whole, take_model
from mail.training.settings import TrainingSettings
from pipelines.terminal import say
from pipelines.training import changes
from pipelines.training.finished import has_model, is_longer

# what may differ between two starts of one run: it changes where and how it is computed, not what
FREE = (
    "workers",
    "micro_batch_size",
    "steps",
    "precision",
    "data",
    "masks",
    "code_version",
    "changes",
    "asked",
    "address",
    "patience",
)
PARENT = "parent"  # a copy of the model that the run goes on from
NOT_OF_THE_MODEL = (MANIFEST, "optimizer.safetensors", "run.json", CURVES)


@dataclass
class RunState:
    """`OUT/run.json`: name, config, MLflow run, number of starts, and the result once there is one.

    Attributes:
        key: made up with the run and noted before MLflow has it, so that a run whose driver was killed in between is
            found again instead of made twice.
    """

    folder: str
    name: str
    config: dict[str, Any] | None = None
    run_id: str | None = None
    key: str = field(default_factory=lambda: uuid.uuid4().hex)
    starts: int = 0
    finished: bool = False
    result: dict[str, Any] = field(default_factory=dict)
    asked: dict[str, Any] | None = None
    _before: bytes | None = field(default=None, repr=False)
    _written: bytes | None = field(default=None, repr=False)

    @classmethod
    def open(cls, folder: str, name: str) -> "RunState":
        """State of the run in a folder, a new one if there is none.

        Raises:
            UserError: the folder holds a run of another name, or a model or checkpoints of no run.
        """
        filesystem, root = files.resolve(folder)
        address = addresses.absolute(folder)
        try:
            before = files.read_bytes(filesystem, f"{root}/run.json")
        except (FileNotFoundError, NotADirectoryError):
            state = cls(address, name)
            if files.exists(*files.resolve(state.model)) or find_latest(state.checkpoints) is not None:
                raise UserError(f"{folder} holds a model or checkpoints, but no run: choose another --out") from None
            return state
        values = json_text.read_record(f"{folder}/run.json", before, "name")
        if values["name"] != name:
            raise UserError(f"{folder} holds the run {values['name']!r}: give --name {values['name']} or another --out")
        return cls(address, **values, _before=before)

    @property
    def checkpoints(self) -> str:
        return addresses.join(self.folder, "checkpoints")

    @property
    def model(self) -> str:
        return addresses.join(self.folder, "model")

    @property
    def overlays(self) -> str:
        return addresses.join(self.folder, "overlays")

    @property
    def start_name(self) -> str:
        return f"start-{self.starts:03d}"

    @property
    def earned(self) -> int:
        """Steps of the model that the run came to, 0 if it came to none yet."""
        return int(self.result.get("steps", 0))

    @property
    def ended_at(self) -> int:
        """Step of the last checkpoint of the finished run: before the last step, where it ended early."""
        return int(self.result.get("ended_at", self.earned))

    def find_start(self, resume: bool) -> Saved | None:
        """Where to go on, None for the beginning.

        Raises:
            UserError: the run was begun before and `resume` was not asked for.
        """
        if self.config is None:
            return None
        if not resume:
            found = find_latest(self.checkpoints)
        else:  # workers compare what they load; a model that is there must not give way to a training from nothing
            found = (find_whole if self.earned else find_complete)(self.checkpoints, say)
        step = found.step if found else 0
        if not resume and self.finished:
            raise UserError(
                f"run {self.name} is finished ({self.earned} steps, {self.model}): train longer with --resume and more "
                "--steps, or give another --name"
            )
        if not resume:
            raise UserError(
                f"run {self.name} was begun before and has {step} steps: go on with --resume, or give another --name"
            )
        return found

    def is_over(self, steps: int | None, start: Saved | None) -> bool:
        """Whether nothing is left to train: the run is finished, and no more steps are asked for.

        Args:
            steps: that are asked for. start: the newest checkpoint.

        Raises:
            UserError: only training anew would give what is asked for, and that is not what a run is resumed for.
        """
        if not self.earned:
            return False
        there = has_model(self.folder)
        if start is None and not (self.finished and there and not is_longer(steps, self.earned)):
            model = f"its model is {self.model}" if there else "its model is gone as well"
            raise UserError(
                f"run {self.name} was finished with {self.earned} steps and no checkpoint is left to go on from; "
                f"{model}: to train anew give another --name"
            )
        if not self.finished or is_longer(steps, self.earned):
            return False
        if not there and start is not None and start.step < self.ended_at:
            raise UserError(
                f"run {self.name} was finished with {self.earned} steps, but its model and its last checkpoints are "
                f"gone: go on from {start.address} with more --steps than {self.earned}, or give another --name"
            )
        return True

    def check_config(self, config: dict[str, Any], because: str | None = None, step: int = 0) -> None:
        """Raises UserError if the run was begun with another config, apart from what may change for a stated reason.

        Args:
            config: what is given now; its `changes` become those of the run, with the new ones.
            because: the reason. step: from which the run goes on.
        """
        weights = (self.config or {}).get("pretrained")
        if config.get("pretrained") and addresses.absolute(config["pretrained"]) == weights:
            config["pretrained"] = weights  # a folder that is gone since, and that only the first start needs
        before = self.config or config
        for each in (before, config):  # of a run from when there was no choice yet
            each["recipe"] = TrainingSettings().to_dict() | each.get("recipe", {})
            each.setdefault("network", {}).setdefault("tower", MailConfig.tower)
        changed = changes.apply(before, config, because, step)
        if changed := changed or differences(before, config):
            raise UserError(
                f"run {self.name} cannot go on with another config: {'; '.join(changed[:4])}. Give it as before, or "
                "another --name"
            )

    def begin(self, config: dict[str, Any], asked: dict[str, Any] | None = None) -> None:
        """Notes a new start. `asked`: the options that it was given."""
        self.config, self.starts, self.finished, self.asked = config, self.starts + 1, False, asked
        self._write()

    def withdraw(self) -> None:
        """Takes a start back that left no checkpoint: the folder is as it was, and the name as free as it was."""
        filesystem, root = files.resolve(self.folder)
        if find_latest(f"{self.checkpoints}/{self.start_name}") is not None:
            return
        if files.read_bytes(filesystem, f"{root}/run.json") != self._written:
            return  # another process began here meanwhile
        started = f"{root}/checkpoints/{self.start_name}"
        if files.exists(filesystem, started):
            filesystem.delete_dir(started)  # Ray Train would go on with what it noted there
        if self._before is None and files.exists(filesystem, kept := f"{root}/{PARENT}"):
            filesystem.delete_dir(kept)
        if self._before is not None:
            files.write_bytes(filesystem, f"{root}/run.json", self._before)
        else:
            filesystem.delete_file(f"{root}/run.json")

    def recorded_as(self, run_id: str) -> None:
        """Notes the MLflow run."""
        if run_id != self.run_id:
            self.run_id = run_id
            self._write()

    def export_model(
        self, found: Saved, origin: dict[str, Any] | None, proposer: str | None, may: Callable[[], None]
    ) -> str:
        """Copies the model of a checkpoint, without its optimizer, to `OUT/model`, and a proposer.

        Args:
            origin: the lineage, None for the checkpoint's. may: raises if the folder is another process's by now.

        Raises:
            UserError: that checkpoint is damaged.
        """
        filesystem, target = files.resolve(self.model)
        with tempfile.TemporaryDirectory() as temporary, naming(temporary):
            local = Path(temporary) / "model"
            taken = take_model(found, NOT_OF_THE_MODEL, local, say)
            if taken is None:
                raise UserError(f"{found.address} cannot be exported: give the same command with --resume")
            if proposer is not None:
                with files.local_folder(proposer) as there:
                    shutil.copytree(there, local / "proposer")
            if origin is not None:
                (local / lineage.FILE).write_text(json.dumps(origin, indent=2))
                taken.pop(lineage.FILE, None)
            write_inventory(local, taken)
            files.replace_folder(local, filesystem, target, may)
        return self.model

    def name_run_in_model(self, may: Callable[[], None]) -> None:
        """Has the model's lineage name the MLflow run that has the run's record now, if it names another one.

        Args:
            may: as of `export_model`.

        Raises:
            UserError: the model is damaged, and must not be called whole anew.
        """
        filesystem, target = files.resolve(self.model)
        with tempfile.TemporaryDirectory() as temporary, files.local_folder(self.model) as there:
            origin = lineage.read(there)
            if origin.get("run_id") == self.run_id:
                return
            check_inventory(there)
            local = shutil.copytree(there, Path(temporary) / "model", ignore=shutil.ignore_patterns(FILE))
            (local / lineage.FILE).write_text(json.dumps({**origin, "run_id": self.run_id}, indent=2))
            write_inventory(local)
            files.replace_folder(local, filesystem, target, may)

    def best(self) -> dict[str, Any] | None:
        """`checkpoint`, `step` and `oIoU` of the best of the checkpoints on validation."""
        found = find_best(self.checkpoints)
        return None if found is None else {"checkpoint": found.address, "step": found.step, "oIoU": found.oiou}

    def finish(self, result: dict[str, Any], keep: int) -> None:
        """Notes the end, and keeps of all starts' checkpoints the newest `keep` and the best."""
        self.result, self.finished = result, True
        self._write()
        prune(self.checkpoints, keep)

    def _write(self) -> None:
        values = {k: v for k, v in vars(self).items() if k != "folder" and not k.startswith("_")}
        self._written = json.dumps(values, indent=2, default=str).encode()
        filesystem, root = files.resolve(self.folder)
        files.write_bytes(filesystem, f"{root}/run.json", self._written)


def differences(before: dict[str, Any], now: dict[str, Any], prefix: str = "") -> list[str]:
    """What differs between two configs, apart from what may."""
    found = []
    for key in sorted(before.keys() | now.keys()):
        old, new = before.get(key), now.get(key)
        if key in FREE or old == new:
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            found += differences(old, new, f"{prefix}{key}.")
        else:
            found.append(f"{prefix}{key} was {old}, is {new}")
    return found
