"""What each worker of a proposer's training runs, and where its checkpoints go."""

import json
import shutil
from pathlib import Path
from typing import Any

from mail.data import files
from mail.inventory import check_inventory
from mail.proposers.fit import fit
from mail.training.checkpoint import FORMAT_VERSION, MANIFEST, prune, put_checkpoint
from mail.training.going_on import find_whole
from pipelines.terminal import say

PROGRESS = "progress.jsonl"
KEPT = 2  # checkpoints: the newest, and one to go on from where that is damaged


def work(config: dict[str, Any]) -> None:
    """What each Ray Train worker runs."""
    import ray.train
    import ray.train.torch
    import torch
    from ray.train.collective import broadcast_from_rank_zero

    context, training, claim = ray.train.get_context(), config["training"], config["claim"]
    device = ray.train.torch.get_device()
    local = config["local_folder"]
    if device.type == "cpu" and not local:
        torch.set_num_threads(max(1, int(ray.get_runtime_context().get_assigned_resources().get("CPU", 1))))

    def put(checkpoint: ray.train.Checkpoint, name: str) -> ray.train.Checkpoint:
        filesystem, root = files.resolve(f"{training}/{context.get_experiment_name()}/{name}")
        put_checkpoint(Path(checkpoint.path), filesystem, root, claim.check)
        prune(training, KEPT)
        return ray.train.Checkpoint(root, filesystem)

    def report(metrics: dict[str, Any], folder: Path | None) -> None:
        if context.get_world_rank() == 0:
            claim.check() if folder else claim.alive()
        if local:
            with open(Path(local) / PROGRESS, "a") as file:
                file.write(json.dumps(metrics) + "\n")
            if folder:
                shutil.copytree(folder, Path(local) / "checkpoint", dirs_exist_ok=True)
            ray.train.report(metrics)
            return
        if folder:
            record = {"format_version": FORMAT_VERSION, "step": metrics["step"], "validation": None}
            (folder / MANIFEST).write_text(json.dumps(record))
        ray.train.report(
            metrics,
            checkpoint=ray.train.Checkpoint.from_directory(folder) if folder else None,
            checkpoint_dir_name=f"step-{metrics.get('step', 0):07d}",
            checkpoint_upload_fn=put,
        )

    arguments = {"device": device, "report": report, "rank": context.get_world_rank()}
    arguments |= {"world_size": context.get_world_size(), "wrap": ray.train.torch.prepare_model}
    newest = find_whole(training, say) if context.get_world_rank() == 0 and not local else None
    address = None if local else broadcast_from_rank_zero(newest.address if newest else None)
    if address is None:
        fit(config["job"], **arguments)
        return
    with files.local_folder(address) as folder:
        check_inventory(folder, (MANIFEST,))  # also what came to another machine
        fit(config["job"], **arguments, resume=folder)
