"""The workers of a training on Ray Train: how many, where, on what share of the cluster, and what ends them."""

import contextlib
import dataclasses
import os
from typing import Any

from mail.data import files
from mail.training.run_plan import RunPlan
from pipelines.cluster_session.errors import plain_errors
from pipelines.registry.client import environment
from pipelines.registry.system_metrics import system_metrics
from pipelines.terminal import say
from pipelines.training.config import TrainConfig
from pipelines.training.input import STORE_BYTES, Transport
from pipelines.training.run_state import RunState
from pipelines.training.shares import share_cluster, share_nodes, worker_range
from pipelines.training.worker import Job


def fit(config: TrainConfig, run: RunPlan, state: RunState, job: Job, mailbox: Any) -> None:
    """Trains on as many workers as asked for. Needs a connection to Ray.

    Args:
        mailbox: the actor that takes what is to be told.

    Raises:
        UserError: a worker met a wrong input.
    """
    import ray
    import ray.train
    from ray.train.torch import TorchTrainer

    from pipelines.training.watch import Watch

    fewest, most = worker_range(config.workers)
    nodes = [n["Resources"] for n in ray.nodes() if n["Alive"] and n["Resources"].get("CPU")]
    share = share_nodes if fewest < most else share_cluster
    shares = share(nodes, most, config.input_cpus)
    if not shares.gpu and any(n.get("GPU") for n in nodes):
        say(f"the cluster has fewer GPUs than --workers {config.workers}: all train on CPUs")
    job = dataclasses.replace(job, threads=config.threads or shares.threads)
    transport = Transport(cpus=shares.input_cpus, store_bytes=max(STORE_BYTES, shares.store_bytes))
    filesystem, path = files.resolve(state.checkpoints)
    api: Any = ray.train  # its own stubs are those of the older interface
    trainer = TorchTrainer(
        _train_worker,
        train_loop_config={
            "job": ray.put((job, transport)),
            "shared": ray.put((run.source, run.epochs)),
            "mailbox": mailbox,
            "run_id": state.run_id,
            "mlflow": ray.put(environment()),  # Ray's dashboard shows what is not an object's reference
        },
        scaling_config=api.ScalingConfig(
            num_workers=most if fewest == most else (fewest, most),
            use_gpu=shares.gpu,
            resources_per_worker={"CPU": shares.worker_cpus} | ({"GPU": 1} if shares.gpu else {}),
            placement_strategy="PACK" if shares.gpu else "SPREAD",  # GPUs talk fastest inside of a node
            elastic_resize_monitor_interval_s=config.grow_every,
        ),
        run_config=api.RunConfig(
            name=state.start_name,
            storage_path=path,
            storage_filesystem=filesystem,
            # `prune` deletes the others, and keeps the best besides the newest
            checkpoint_config=api.CheckpointConfig(num_to_keep=None),
            failure_config=api.FailureConfig(max_failures=config.max_failures),
            callbacks=[Watch(config.name, mailbox)],
        ),
    )
    with plain_errors():
        trainer.fit()


def _train_worker(given: dict[str, Any]) -> None:
    """What a worker runs. Ray's controller unpickles it, and must not have to load the network's code for that."""
    import ray
    import ray.train
    import ray.util

    from pipelines.training.worker import on_ray

    os.environ.update(ray.get(given.pop("mlflow")))
    run_id = given.pop("run_id")
    first = ray.train.get_context().get_local_rank() == 0  # one of a machine's workers speaks for it
    with system_metrics(run_id, ray.util.get_node_ip_address()) if first else contextlib.nullcontext():
        on_ray(**given)
