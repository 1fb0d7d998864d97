"""What MLflow does not have of a finished training, given to it afterwards: curves, parameters, pictures, the model.

MLflow is a witness: it may be away, or have lost a run, and the training's folder still holds all of it.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mail import addresses, json_text, lineage
from mail.data import files
from mail.errors import UserError
from mail.training.checkpoint import Saved
from mail.training.curves import Curves
from mail.training.going_on import find_whole
from pipelines.claiming.claim import Claim
from pipelines.registry.datasets import recorded_inputs
from pipelines.registry.models import MODEL_NAME, find_version, register_model
from pipelines.registry.run_log import RunLog, start_run
from pipelines.registry.witness import has_lost, seen
from pipelines.terminal import say
from pipelines.training.overlays import Overlays
from pipelines.training.run_state import RunState

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput

CLOSE_SECONDS = 300.0  # how long MLflow may be away at the end
LATER = "give the same command with --resume, or `mail-ris models register {}`, once that is mended"


def register(folder: str, run_id: str | None, name: str = MODEL_NAME) -> int | None:
    """Registers a MODEL folder; None, with a line that says why and what to do, where MLflow does not take it."""
    say("registering the model")
    try:
        with files.local_folder(folder) as local:
            return register_model(local, run_id, name)
    except UserError as error:  # the training is done and must not be lost for that
        say(f"the model is not registered ({error}): {LATER.format(folder)}")
        return None


def complete(
    state: RunState,
    newest: Saved | None,
    keep: int,
    wanted: bool,
    inputs: "Sequence[DatasetInput]" = (),
    may: Callable[[], None] = lambda: None,
) -> None:
    """Gives MLflow what it lacks of a finished run, as the run noted it, and notes what it has then.

    Where MLflow does not take it, a line says so: the training is none the worse.

    Args:
        newest: checkpoint with the curves, None if it is gone. keep: checkpoints. wanted: the model registered.
        may: raises if the folder is another process's by now.
    """
    result = dict(state.result)
    if not result.get("recorded", True) or has_lost(result.get("run_id"), result.get("seen")):
        try:
            result |= record(state, newest, inputs, may)
        except UserError as error:
            say(f"MLflow does not have the run's record ({error}): {LATER.format(state.folder)}")
            wanted = False
    moved = result.get("run_id") != state.result.get("run_id")
    if wanted and (result.get("version") is None or moved):
        result["version"] = register(state.model, result.get("run_id"))
        if result["version"]:
            say(f"registered as {MODEL_NAME} version {result['version']}")
    if result != state.result:
        state.finish(result | {"seen": seen()}, keep)


def record(
    state: RunState,
    newest: Saved | None,
    inputs: "Sequence[DatasetInput]" = (),
    may: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Writes a finished run's whole record, to a new MLflow run where the old one is gone: `run_id` and `recorded`.

    The model's lineage names that run then.

    Raises:
        UserError: MLflow cannot be reached, or its experiment was deleted.
    """
    tags = {**_labels(state), **state.result.get("tags", {})}
    run_id = start_run(state.name, state.config or {}, tags, state.run_id, state.key, inputs, state.folder)
    if state.run_id not in (None, run_id):
        say(f"MLflow's run {state.run_id} is deleted: the record is written to a new one, {run_id}")
    state.recorded_as(run_id)
    state.name_run_in_model(may)
    log = RunLog(run_id, say)
    if newest is not None:
        with files.local_folder(newest.address) as folder:
            for kind, records in Curves.load(folder).by_kind():
                log.metrics(records, f"{kind}/")
    else:
        say("the run's checkpoints are gone, and its curves with them: they are not recorded")
    Overlays(state.overlays).log(log)
    log.tags({"model": state.model})
    recorded = log.close(timeout=CLOSE_SECONDS)
    say("MLflow has the whole record now" if recorded else "MLflow still does not have the whole record")
    return {"run_id": run_id, "recorded": recorded}


def register_folder(folder: str, name: str = MODEL_NAME) -> int:
    """Registers a finished run's model, or a MODEL folder, and catches up with the run's record; the version.

    Raises:
        UserError: there is no model, its run is not finished, or MLflow does not take it.
    """
    run = _run_of(folder)
    if run is None:
        with files.local_folder(folder) as local:
            if not (local / "config.json").is_file():
                raise UserError(f"{folder} is no model: give a MODEL folder, or the folder of a finished run")
            return register_model(local, None, name)
    filesystem, root = files.resolve(run)
    values = json_text.read_record(f"{run}/run.json", files.read_bytes(filesystem, f"{root}/run.json"), "name")
    state = RunState.open(run, values["name"])
    if not state.finished:
        raise UserError(
            f"run {state.name} in {run} is not finished: `mail-ris train` with --resume ends and registers it"
        )
    with Claim(run, f"run {state.name}", "another folder") as claim:
        with files.local_folder(state.model) as local:
            inputs = recorded_inputs(lineage.read(local))
        found = record(state, find_whole(state.checkpoints, say), inputs, claim.check)
        version = state.result.get("version") if name == MODEL_NAME else None
        if version is None or not _has(name, version, found["run_id"]):
            with files.local_folder(state.model) as local:
                version = register_model(local, found["run_id"], name)
        found |= {"seen": seen()} | ({"version": version} if name == MODEL_NAME else {})
        claim.check()
        state.finish(state.result | found, keep=10**6)
    if not found["recorded"]:
        raise UserError(f"{name} version {version} is registered, but MLflow does not have the whole record of its run")
    return int(version)


def _run_of(folder: str) -> str | None:
    """The run that a folder is, or that it is the model of."""
    address = addresses.absolute(folder)
    places = [address]
    if address.rstrip("/").endswith("/model"):
        places.append(address.rstrip("/").removesuffix("/model"))
    for place in places:
        filesystem, root = files.resolve(place)
        if files.exists(filesystem, f"{root}/run.json"):
            return place
    return None


def _has(name: str, version: int, run_id: str) -> bool:
    """Whether the registry has this version, of this run."""
    try:
        return find_version(f"{name}/{version}").run_id == run_id
    except UserError:
        return False


def _labels(state: RunState) -> dict[str, str]:
    """Labels that the model's lineage tells, of a run that noted none."""
    with files.local_folder(state.model) as folder:
        origin = lineage.read(Path(folder))
    return {"leaky": str(bool(origin.get("leaky"))).lower(), "code_version": str(origin.get("code_version", ""))}
