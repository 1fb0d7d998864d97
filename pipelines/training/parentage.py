"""The model that a run goes on from: found once, kept in the run's folder, the same at every start.

An alias moves and a folder is cleared away, so a copy of the model is in `OUT/parent` before the run is begun. A start
with the same address reads the copy, whatever the address means by now; one with another address is compared by digest,
as all of a run's config is.
"""

import re
from collections.abc import Callable

from mail import addresses
from mail.data import files
from mail.errors import UserError
from mail.inference import BUNDLED_PROPOSER
from mail.lineage import model_digest
from mail.model.folder import check_model_folder
from mail.proposers.folder import ProposerFolder
from mail.training.parent import Parent
from pipelines.registry.models import SCHEME, find_version, resolve_model
from pipelines.training.config import TrainConfig
from pipelines.training.run_state import PARENT, RunState


def find_parent(config: TrainConfig, state: RunState) -> Parent | None:
    """The model of `--from`, None without; of a run that was begun with it, the copy.

    Raises:
        UserError: there is no such model, or it is damaged.
    """
    if config.from_ is None:
        return None
    kept = addresses.join(state.folder, PARENT)
    recorded = (state.config or {}).get("parent") or {}
    if recorded.get("asked") == config.from_ and files.exists(*files.resolve(kept)):
        with files.local_folder(kept) as folder:
            return Parent.read(folder, config.from_, recorded["address"], model_digest(folder))
    folder = check_model_folder(resolve_model(config.from_))
    return Parent.read(folder, config.from_, lasting_address(config.from_), model_digest(folder))


def keep_parent(config: TrainConfig, parent: Parent | None, state: RunState, may: Callable[[], None]) -> str | None:
    """Copies the model of `--from` into the folder of a run that is not begun yet; the copy's address.

    Args:
        parent: that was found. may: raises if the folder is another process's by now.

    Raises:
        UserError: it has become another model since.
    """
    if config.from_ is None or parent is None:
        return None
    kept = addresses.join(state.folder, PARENT)
    if state.config is None or not files.exists(*files.resolve(kept)):
        folder = check_model_folder(resolve_model(config.from_))
        if model_digest(folder) != parent.digest:
            raise UserError(f"--from {config.from_} has become another model just now: give the same command again")
        files.replace_folder(folder, *files.resolve(kept), may)
    return kept


def bundled_proposer(kept: str | None, weights_sha256: str | None) -> str | None:
    """The proposer that the model brings, if the masks are its: a folder to bundle with the new model."""
    if kept is None or weights_sha256 is None:
        return None
    place = addresses.join(kept, BUNDLED_PROPOSER)
    if not files.exists(*files.resolve(place)) or ProposerFolder.read(place).weights_sha256 != weights_sha256:
        return None
    return place


def lasting_address(address: str) -> str:
    """An address that still means the same when an alias has moved."""
    if not re.match(f"{SCHEME}[^/]+@", address):
        return address
    version = find_version(address)
    return f"{SCHEME}{version.name}/{version.version}"
