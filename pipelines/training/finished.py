"""A finished run: what it gave, told within a second. Neither the network nor the data is looked at for that.

Nothing here imports torch, so that the same command given once more, by a script or by somebody who does not remember,
costs nothing.
"""

import dataclasses
import json
from typing import Any

from mail import addresses, json_text
from mail.data import files
from pipelines.registry.witness import has_lost
from pipelines.terminal import done
from pipelines.training.config import TrainConfig

STATE = "run.json"


def outcome(config: TrainConfig) -> dict[str, Any] | None:
    """Tells what a finished run of this very command gave; None if there is anything to do, refuse or catch up on."""
    filesystem, root = files.resolve(config.folder)
    try:
        state = json_text.parse_object(files.read_bytes(filesystem, f"{root}/{STATE}"))
        result = state["result"]
        over = state["finished"] and state["name"] == config.name and not is_longer(config.steps, result["steps"])
        known = result["recorded"] and (result["version"] is not None or not config.register)
        same = state["asked"] == asked(config)
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
        return None
    if not (config.resume and over and known and same and has_model(config.folder)):
        return None
    model = addresses.join(config.folder, "model")
    done(f"run {config.name} is finished: {result['steps']} steps, model in {model}")
    if has_lost(result["run_id"], result.get("seen")):
        return None  # its record is written anew
    return {"model": model, **result}


def asked(config: TrainConfig) -> dict[str, Any]:
    """The options as JSON has them, but for those by which the same run is gone on with."""
    own = {field.name for field in dataclasses.fields(TrainConfig)} - {"resume", "steps"}
    values = {name: value for name, value in dataclasses.asdict(config).items() if name in own}
    return dict(json.loads(json.dumps(values, default=str)))


def is_longer(steps: int | None, earned: int) -> bool:
    """Whether more steps are asked for than a finished run has."""
    return steps is not None and steps > earned


def has_model(folder: str) -> bool:
    """Whether the model of a run, in its folder, is there."""
    filesystem, root = files.resolve(folder)
    return all(files.exists(filesystem, f"{root}/model/{name}") for name in ("config.json", "model.safetensors"))
