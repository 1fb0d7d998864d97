"""How `--workers` is read, and how a cluster's CPUs and GPUs are shared between train workers and their input."""

from dataclasses import dataclass
from typing import Annotated

import tyro

from mail.errors import UserError
from pipelines.cluster_session.session import local_cpus

LEAST_CPUS = 0.2  # of a worker and its input, where many share few


def worker_range(workers: int | str) -> tuple[int, int]:
    """Fewest and most workers of `--workers N` or `--workers MIN..MAX`.

    Raises:
        UserError: it is neither.
    """
    text = str(workers)
    low, dots, high = text.partition("..")
    if low.isdigit() and (high.isdigit() if dots else True):
        fewest, most = int(low), int(high or low)
        if fewest <= most and (fewest or not most):
            return fewest, most
    raise UserError(f"--workers {text}: give a number, or MIN..MAX such as 1..4 (0 alone trains without Ray)")


def check_workers(workers: int | str, least: float = LEAST_CPUS) -> None:
    """Raises UserError where `--workers` is nothing, or more than a Ray that is started on this machine has room for.

    A cluster that is joined may grow, so what it has now says nothing.

    Args:
        least: CPUs that a worker needs.
    """
    fewest, _ = worker_range(workers)
    if fewest and (cpus := local_cpus()) is not None and fewest * least > cpus:
        raise UserError(
            f"--workers {workers}: this machine's {cpus} CPUs have room for {int(cpus / least)} workers at most; "
            "RAY_ADDRESS names a cluster"
        )


def _read_workers(arguments: list[str]) -> int | str:
    try:
        fewest, most = worker_range(arguments[0])
    except UserError as error:
        raise ValueError(str(error)) from None
    return most if fewest == most else arguments[0]


Workers = Annotated[
    int | str,
    tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="N|MIN..MAX",
        instance_from_str=_read_workers,
        is_instance=lambda value: isinstance(value, int | str),
        str_from_instance=lambda value: [str(value)],
    ),
]


@dataclass(frozen=True)
class Shares:
    """CPUs of a worker and of its input tasks, torch threads of a worker without GPU, whether there are GPUs; and
    object store memory for a worker's batches, half of its share."""

    worker_cpus: float
    input_cpus: float
    threads: int
    gpu: bool
    store_bytes: int


def share_nodes(nodes: list[dict[str, float]], workers: int, input_cpus: float | None = None) -> Shares:
    """Shares of elastic training: nodes come and go, so a worker and its input must fit into any one of them.

    One worker a GPU; without GPUs one a node, which takes more than half of the CPUs so that no second one fits in.
    """
    with_gpus = [n for n in nodes if n.get("GPU")]
    if with_gpus:
        own = min(n["CPU"] / n["GPU"] for n in with_gpus)
        worker = min(1.0, int(50 * own) / 100)  # never all of them, or the input would wait for a CPU for ever
        store = min(_store(n) / n["GPU"] for n in with_gpus)
        return Shares(worker, input_cpus or round(own - worker, 2), 1, True, int(store / 2))
    cpus = min((n["CPU"] for n in nodes), default=1.0)
    worker = int(100 * (cpus * 0.5 + 0.05)) / 100
    store = min(map(_store, nodes), default=0.0)
    return Shares(worker, input_cpus or round(cpus - worker, 2), max(1, int(cpus)), False, int(store / 2))


def share_cluster(nodes: list[dict[str, float]], workers: int, input_cpus: float | None = None) -> Shares:
    """Shares the nodes' resources between a fixed number of workers and their input.

    Trainers that wait for each other must never wait for CPUs, so every worker's input has CPUs of its own.
    """
    cpus = sum(n["CPU"] for n in nodes) or 1.0
    gpu = sum(n.get("GPU", 0.0) for n in nodes) >= workers
    worker = 1.0 if cpus >= 2 * workers else max(0.1, int(50 * cpus / workers) / 100)
    free = max(cpus - worker * workers, 0.1 * workers) / workers
    own = input_cpus or (float(int(free)) if free >= 1 else int(100 * free) / 100)
    # without a GPU the network is the bottleneck; the input needs little of the cores that both use
    store = sum(map(_store, nodes)) / workers
    return Shares(worker, own, 1 if gpu else max(1, int(cpus // workers)), gpu, int(store / 2))


def _store(node: dict[str, float]) -> float:
    return node.get("object_store_memory", 0.0)
