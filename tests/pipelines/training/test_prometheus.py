"""Figures of a training are where Prometheus looks for them, under the names that the dashboard draws."""

import time
import urllib.request

import pytest

from pipelines.training.prometheus import COUNTERS, GAUGES, Gauges, count_errors
from pipelines.training.watch import reason


@pytest.mark.cluster
def test_figures_are_where_prometheus_looks(ray_cluster):
    import ray

    @ray.remote(num_cpus=0)
    class Worker:
        def tell(self) -> None:
            gauges = Gauges("first")
            lap = dict.fromkeys(GAUGES, 0.5) | {"expressions": 32}
            gauges.steps(
                [{"step": 7, "loss": 0.25, "time": 0.0}], {k: lap[k] for k in lap if k not in ("step", "loss")}
            )
            gauges.validation({"step": 7, "oIoU": 0.75, "mIoU": 0.5})
            count_errors("first", {"0": "ActorDiedError: the node is gone", "1": "ActorDiedError: that one too"})

    worker = Worker.remote()
    ray.get(worker.tell.remote())
    (node,) = [n for n in ray.nodes() if n["Alive"]]
    address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    wanted = {f"ray_mail_train_{k.lower()}" for k in GAUGES} | {f"ray_{name}" for name in COUNTERS}
    deadline, found = time.monotonic() + 60, ""
    while time.monotonic() < deadline and not all(f"\n{name}{{" in found for name in wanted):
        time.sleep(1)
        with urllib.request.urlopen(address, timeout=10) as response:
            found = response.read().decode()
    values = {}
    for line in found.splitlines():
        if line.startswith("ray_mail_train") and 'run="first"' in line:
            values[line.partition("{")[0]] = float(line.rpartition(" ")[2])
    assert values.keys() == wanted, sorted(wanted - values.keys())
    assert values["ray_mail_train_loss"] == 0.25
    assert values["ray_mail_train_oiou"] == 0.75
    assert values["ray_mail_train_expressions_total"] == 32
    assert values["ray_mail_train_errors_total"] == 2
    assert 'reason="ActorDiedError"' in found


def test_a_reason_is_the_kind_and_the_first_line():
    assert reason(ValueError("no image\nat all")) == "ValueError: no image"
    assert reason(RuntimeError()) == "RuntimeError: "
