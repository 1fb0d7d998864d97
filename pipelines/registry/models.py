"""Registered models: how a MODEL folder becomes a version, and an address becomes a local MODEL folder.

A registered model is a pyfunc model whose code is source files and whose weights are safetensors: nothing is unpickled.
"""

import contextlib
import importlib.metadata
import logging
import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mail
from mail import addresses, lineage
from mail.addresses import without_secrets as shown
from mail.errors import UserError
from pipelines.registry.client import answers, connect, experiment, first_line, registry_uri, surely, tracking_uri
from pipelines.registry.datasets import recorded_inputs
from pipelines.registry.dead_runs import DRIVER_TAG, driver, end_dead_runs
from pipelines.registry.run_log import known
from pipelines.registry.smoke_test import example

MODEL_NAME = "mail-ris"
CHAMPION = "champion"
# what a registered model needs to predict, in the versions that it was trained with
REQUIREMENTS = ("torch", "torchvision", "transformers", "safetensors", "pycocotools", "numpy", "pillow", "pyarrow")
SCHEME = addresses.REGISTRY
_RUN = re.compile(r"runs:/+([0-9a-f]+)(?:/.*)?|([0-9a-f]{32})")  # the latter is no path: `resolve` has made it one
LOGGED_MODEL = "model_id"  # tag of a version: MLflow's own databases do not keep it


def register_model(model_dir: str | os.PathLike, run_id: str | None = None, name: str = MODEL_NAME) -> int:
    """Logs a MODEL folder, with the proposer bundled in it, as a pyfunc model and registers it.

    Args:
        run_id: the training run; None, or a run of another tracking store, logs it in a run of its own.

    Returns:
        The new version's number.

    Raises:
        UserError: the folder is no model, or MLflow cannot be reached.
    """
    import mlflow
    from mlflow.exceptions import MlflowException

    folder, origin = addresses.local_path(model_dir), lineage.read(model_dir)
    with answers(), tempfile.TemporaryDirectory() as temporary:
        client = connect()
        source = Path(temporary) / "mail"
        shutil.copytree(Path(mail.__file__).parent, source, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
        with _run(client, run_id, folder.parent.name, origin), _quiet("mlflow"):
            info = mlflow.pyfunc.log_model(
                name="model",
                python_model=str(Path(__file__).with_name("pyfunc_model.py")),
                artifacts={"model": addresses.encoded_uri(folder)},  # a path is cut off at a # or a ?
                code_paths=[str(source)],
                signature=signature(),
                input_example=example(),
                pip_requirements=[f"{p}=={importlib.metadata.version(p).split('+')[0]}" for p in REQUIREMENTS],
            )
            with contextlib.suppress(MlflowException):  # it is there already
                client.create_registered_model(name)
            source = info.model_uri
            if registry_uri() != tracking_uri():  # which cannot look the logged model up
                source = client.get_logged_model(info.model_id).artifact_location
            tags = {"leaky": str(bool(origin.get("leaky"))).lower(), LOGGED_MODEL: info.model_id}
            tags["code_version"] = str(origin.get("code_version", ""))
            version = client.create_model_version(name, source, info.run_id, tags, model_id=info.model_id)
    return int(version.version)


def signature() -> Any:
    """Image bytes and text in; RLE, score and the probability that the text names nothing out."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema
    from mlflow.types.schema import Array

    inputs: list[Any] = [ColSpec(DataType.binary, "image"), ColSpec(DataType.string, "text")]
    outputs: list[Any] = [
        ColSpec(Array(DataType.long), "size"),
        ColSpec(DataType.string, "counts"),
        ColSpec(DataType.double, "score"),
        ColSpec(DataType.double, "no_target_probability"),
    ]
    return ModelSignature(Schema(inputs), Schema(outputs))


@contextlib.contextmanager
def _run(client: Any, run_id: str | None, name: str, origin: Mapping[str, Any]) -> Iterator[None]:
    """An active run: the given one if this store has it, else a new one with the inputs that a lineage names.

    A given one ends as it was before.
    """
    import mlflow
    from mlflow.exceptions import MlflowException

    if run_id is not None and not known(client, run_id):
        run_id = None
    where = None if run_id else experiment(client)
    if where:
        end_dead_runs(client, where)
    before = client.get_run(run_id).info.status if run_id else None
    try:
        tags = None if run_id else {DRIVER_TAG: driver()}
        with mlflow.start_run(run_id, experiment_id=where, run_name=name, tags=tags, log_system_metrics=False) as run:
            if run_id is None and (inputs := recorded_inputs(origin)):
                surely(client.log_inputs, run.info.run_id, inputs)
            yield
    except BaseException:  # the training has not failed because its model is not registered
        if run_id and before:
            with contextlib.suppress(MlflowException):
                client.set_terminated(run_id, before)
        raise


@contextlib.contextmanager
def _quiet(logger: str) -> Iterator[None]:
    level = logging.getLogger(logger).level
    logging.getLogger(logger).setLevel(logging.ERROR)
    try:
        # advice about type hints and examples: the signature is given. Recorded, for MLflow sets filters of its own
        with warnings.catch_warnings(record=True):
            yield
    finally:
        logging.getLogger(logger).setLevel(level)


def broken_links(origin: Mapping[str, Any], model_dir: Path) -> dict[str, str]:
    """`lineage.broken_links`, and whether the training run is still in this tracking store."""
    from mlflow.exceptions import MlflowException

    found = lineage.broken_links(dict(origin), model_dir)
    if run_id := origin.get("run_id"):
        try:
            connect().get_run(run_id)
        except MlflowException as error:
            found = {"training run": f"not at {shown(tracking_uri())} ({first_line(error)[:120]})"} | found
    return found


@dataclass(frozen=True)
class Version:
    """A registered version.

    Attributes:
        run_id, model_id: of the run that logged it, and of the logged model, which holds its evaluations.
        created: seconds since 1970.
    """

    name: str
    version: str
    run_id: str | None
    model_id: str | None
    tags: dict[str, str]
    aliases: tuple[str, ...]
    created: float


def find_version(address: str) -> Version:
    """The version of `models:/NAME@ALIAS`, `models:/NAME/NUMBER`, `NAME@ALIAS` or `NAME/NUMBER`.

    Raises:
        UserError: there is none; the message says what there is.
    """
    from mlflow.exceptions import MlflowException

    text = address.removeprefix(SCHEME)
    client = connect()
    try:
        if "@" in text:
            name, alias = text.split("@", 1)
            found = client.get_model_version_by_alias(name, alias)
        else:
            name, _, number = text.partition("/")
            if not number.isdigit():
                raise UserError(f"{address!r} is no model address: write models:/{name}@{CHAMPION} or models:/{name}/1")
            found = client.get_model_version(name, number)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "NOT_FOUND"):
            raise
        there = [f"{v.version}{''.join('@' + a for a in v.aliases)}" for v in versions(name)]
        hint = f"there are versions {', '.join(there)}" if there else f"no model {name!r} is registered"
        raise UserError(f"no model {address} at {shown(registry_uri())}: {hint}") from None
    return _version(found)


def versions(name: str = MODEL_NAME) -> list[Version]:
    """All versions of a model, newest first; empty if there is no such model."""
    with answers():
        client = connect()
        found = client.search_model_versions(f"name = '{name}'", max_results=1000)
    # the search leaves aliases out
    aliases: dict[str, list[str]] = {}
    if found:
        for alias, version in client.get_registered_model(name).aliases.items():
            aliases.setdefault(str(version), []).append(alias)
    listed = [_version(v, tuple(aliases.get(str(v.version), ()))) for v in found]
    return sorted(listed, key=lambda v: -int(v.version))


def _version(found: Any, aliases: tuple[str, ...] | None = None) -> Version:
    own = tuple(found.aliases or ()) if aliases is None else aliases
    tags = dict(found.tags or {})
    model_id = found.model_id or tags.get(LOGGED_MODEL)
    created = found.creation_timestamp / 1000
    return Version(found.name, str(found.version), found.run_id or None, model_id, tags, own, created)


def resolve_model(address: str | os.PathLike) -> Path:
    """The local MODEL folder of an address: `models:/NAME@ALIAS`, `models:/NAME/3`, `runs:/ID` or a run's id, a model,
    checkpoint or run folder.

    Models of a remote store are downloaded once and kept below `$XDG_CACHE_HOME/mail-ris`.

    Raises:
        UserError: there is no model.
    """
    text = os.fspath(address)
    if text.startswith(SCHEME):
        with answers():
            return download(find_version(text))
    if (run := _RUN.fullmatch(text)) is not None:
        with answers():
            return _model_of_run(run[1] or run[2])
    folder = addresses.local_path(text)
    for candidate in (folder, folder / "model"):
        if (candidate / "config.json").is_file():
            return candidate
    why = "it has no config.json" if folder.is_dir() else "there is no such folder"
    raise UserError(
        f"{text} is no model: {why} (give a folder that `mail-ris train` wrote, or {SCHEME}{MODEL_NAME}@{CHAMPION})"
    )


def _model_of_run(run_id: str) -> Path:
    """The MODEL folder that a training run noted, or the version that was registered of it."""
    from mlflow.exceptions import MlflowException

    client = connect()
    try:
        noted = client.get_run(run_id).data.tags.get("model")
    except MlflowException as error:
        raise UserError(f"no run {run_id} at {shown(tracking_uri())}: {first_line(error)[:120]}") from None
    if noted and addresses.remote_path(noted) is None and (Path(noted) / "config.json").is_file():
        return Path(noted)
    if found := client.search_model_versions(f"run_id = '{run_id}'", max_results=1):
        return download(_version(found[0]))
    where = f"its model is not at {noted} now" if noted else "it noted no model"
    raise UserError(f"run {run_id} has no model here: {where}, and no version of it is registered")


def download(version: Version) -> Path:
    import mlflow

    uri = connect().get_model_version_download_uri(version.name, version.version)
    if uri.startswith(SCHEME):  # a version names a logged model, which names the files
        uri = mlflow.get_logged_model(uri.removeprefix(SCHEME)).artifact_location
    local = addresses.kept_path(uri)
    if local is not None:
        if not local.is_dir():
            raise UserError(f"the files of {version.name} version {version.version} are gone from {local}")
        return _inside(local, version)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mail-ris" / "models"
    # the time keeps apart registries that number their versions alike
    target = cache / f"{version.name}-{version.version}-{int(version.created * 1000)}"
    if not target.is_dir():
        partial = target.with_name(f".{target.name}.{os.getpid()}")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=str(partial))
        with contextlib.suppress(OSError):  # another process was quicker
            partial.rename(target)
        shutil.rmtree(partial, ignore_errors=True)
    return _inside(target, version)


def _inside(folder: Path, version: Version) -> Path:
    """The MODEL folder inside a pyfunc model."""
    found = sorted(p.parent for p in folder.glob("**/artifacts/*/config.json"))
    if not found:
        raise UserError(f"{version.name} version {version.version} holds no MaIL model (looked below {folder})")
    return found[0]
