"""What KubeRay 1.7.0 refuses of a RayCluster, RayJob or RayService, beyond the schemas of its resources.

The operator checks a resource when it meets it (`ray-operator/controllers/ray/utils/validation.go`, and the webhooks
that repeat the names and refuse worker groups of one name); `kubectl apply` succeeds all the same, and nothing starts.
Feature gates are taken as they are by default. Options that need a gate which is off (history server, mTLS, embedded
storage, network policies of KubeRay's own) are refused as such, whatever they say.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

Json = Mapping[str, Any]

NAME_LENGTHS = {"RayCluster": 53, "RayJob": 47, "RayService": 47}
ALPHA = ("historyServerOptions", "networkPolicy", "tlsOptions")
AUTOSCALER_V2 = "RAY_enable_autoscaler_v2"
LABEL = r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"


def refusals(resource: Json) -> list[str]:
    """Why the operator would refuse the resource; empty if it would not."""
    kind, spec, metadata = resource["kind"], resource["spec"], resource["metadata"]
    annotations = metadata.get("annotations", {})
    found = list(_name(kind, metadata["name"]))
    if kind == "RayCluster":
        found += _cluster(spec, annotations)
        upgrade = spec.get("upgradeStrategy", {}).get("type", "None")
        found += ["upgradeStrategy.type is neither Recreate nor None"] * (upgrade not in ("Recreate", "None"))
    elif kind == "RayJob":
        found += _job(spec, annotations)
    elif kind == "RayService":
        found += _service(spec, annotations)
    return found


def _name(kind: str, name: str) -> Iterator[str]:
    if len(name) > NAME_LENGTHS[kind]:
        yield f"the name has more than {NAME_LENGTHS[kind]} characters"
    if not re.fullmatch(r"[a-z]([a-z0-9-]*[a-z0-9])?", name):
        yield "the name is no DNS-1035 label"


def _cluster(spec: Json, annotations: Json) -> Iterator[str]:
    head, workers = spec["headGroupSpec"], spec.get("workerGroupSpecs", [])
    autoscaled, options = bool(spec.get("enableInTreeAutoscaling")), spec.get("autoscalerOptions", {})
    v2 = options.get("version") == "v2"
    variables = _variables(head)
    yield from _group("head", head)
    for group in workers:
        yield from _worker(group, spec, autoscaled, v2 or variables.get(AUTOSCALER_V2) in ("1", "true"))
    names = [group["groupName"] for group in workers]
    if len(set(names)) < len(names):
        yield "two worker groups have one name"
    if autoscaled and v2:
        for group in (head, *workers):
            if group["template"]["spec"].get("restartPolicy", "Never") != "Never":
                yield f"restartPolicy of {group.get('groupName', 'head')} is not Never with autoscaler v2"
    if autoscaled and "version" in options and AUTOSCALER_V2 in variables:
        yield f"autoscalerOptions.version and {AUTOSCALER_V2} are both set"
    if not autoscaled and variables.get(AUTOSCALER_V2) in ("1", "true"):
        yield f"{AUTOSCALER_V2} is set without enableInTreeAutoscaling"
    if options.get("idleTimeoutSeconds", 0) < 0:
        yield "autoscalerOptions.idleTimeoutSeconds is negative"
    if "KUBERAY_GEN_AUTOSCALER_START_CMD" in {v["name"] for v in options.get("env", [])}:
        yield "autoscalerOptions.env sets what KubeRay sets"
    yield from _fault_tolerance(spec, annotations, variables)
    yield from _token(spec)
    yield from (f"{option} needs a feature gate that is off" for option in ALPHA if option in spec)


def _group(name: str, group: Json) -> Iterator[str]:
    started = group.get("rayStartParams", {})
    if not group["template"]["spec"].get("containers"):
        yield f"{name} has no container"
    if group.get("resources") and any(started.get(k) for k in ("num-cpus", "num-gpus", "memory", "resources")):
        yield f"{name} has resources in rayStartParams and in resources"
    if "labels" in started:
        yield f"{name} has labels in rayStartParams"
    for key, value in group.get("labels", {}).items():
        prefix, _, own = key.rpartition("/")
        plain = re.fullmatch(LABEL, own) and re.fullmatch(r"([a-z0-9]([a-z0-9.-]*[a-z0-9])?)?", prefix)
        if not plain or not re.fullmatch(f"({LABEL})?", value):
            yield f"{name} has the label {key}: {value}"


def _worker(group: Json, spec: Json, autoscaled: bool, v2: bool) -> Iterator[str]:
    name, least, most = group["groupName"], group.get("minReplicas"), group.get("maxReplicas")
    yield from _group(name, group)
    if not autoscaled and (least is None or most is None):
        yield f"{name} needs minReplicas and maxReplicas without an autoscaler"
    if (least or 0) < 0 or (most or 0) < 0:
        yield f"{name} has a negative number of replicas"
    if least is not None and most is not None and least > most:
        yield f"{name} has minReplicas above maxReplicas"
    if group.get("idleTimeoutSeconds", 0) < 0:
        yield f"{name} has a negative idleTimeoutSeconds"
    if "idleTimeoutSeconds" in group and not v2:
        yield f"{name} has an idleTimeoutSeconds without autoscaler v2"
    if group.get("priority") and (_version(spec.get("rayVersion", "")) < (2, 56) or not v2):
        yield f"{name} has a priority without autoscaler v2 of Ray 2.56"
    if group.get("suspend") and autoscaled:
        yield f"{name} is suspended with an autoscaler"


def _fault_tolerance(spec: Json, annotations: Json, variables: Json) -> Iterator[str]:
    options, head = spec.get("gcsFaultToleranceOptions"), spec["headGroupSpec"]
    started = head.get("rayStartParams", {})
    if started.get("redis-username") or "REDIS_USERNAME" in variables:
        yield "the user of Redis is set outside of gcsFaultToleranceOptions"
    if options is None:
        if "RAY_REDIS_ADDRESS" in variables and annotations.get("ray.io/ft-enabled", "").lower() != "true":
            yield "RAY_REDIS_ADDRESS is set without gcsFaultToleranceOptions"
        return
    if annotations.get("ray.io/ft-enabled") or annotations.get("ray.io/external-storage-namespace"):
        yield "an annotation repeats gcsFaultToleranceOptions"
    if started.get("redis-password") or {"REDIS_PASSWORD", "RAY_REDIS_ADDRESS"} & set(variables):
        yield "Redis is set outside of gcsFaultToleranceOptions"
    if options.get("backend", "redis") != "redis":
        yield "the embedded storage needs a feature gate that is off"
    elif "storage" in options:
        yield "gcsFaultToleranceOptions.storage is not for Redis"


def _token(spec: Json) -> Iterator[str]:
    options, version = spec.get("authOptions", {}), _version(spec.get("rayVersion", ""))
    token, kubernetes = options.get("mode") == "token", options.get("enableK8sTokenAuth", False)
    if token and version < (2, 52):
        yield "authOptions.mode token needs a rayVersion of 2.52 or later"
    if kubernetes and not token:
        yield "authOptions.enableK8sTokenAuth needs the mode token"
    if kubernetes and (version < (2, 55) or options.get("secretName")):
        yield "authOptions.enableK8sTokenAuth needs Ray 2.55 and no secretName"


def _job(spec: Json, annotations: Json) -> Iterator[str]:
    selector, cluster, mode = spec.get("clusterSelector", {}), spec.get("rayClusterSpec"), spec.get("submissionMode")
    shuts_down, retries = spec.get("shutdownAfterJobFinishes", False), spec.get("backoffLimit", 0)
    if spec.get("suspend") and (selector or not shuts_down):
        yield "suspend needs a cluster of its own and shutdownAfterJobFinishes"
    if spec.get("ttlSecondsAfterFinished", 0) < 0 or (spec.get("ttlSecondsAfterFinished") and not shuts_down):
        yield "ttlSecondsAfterFinished needs shutdownAfterJobFinishes, and no negative number"
    if not cluster and not selector:
        yield "one of rayClusterSpec and clusterSelector must be set"
    if selector and not selector.get("ray.io/cluster"):
        yield "clusterSelector names no cluster"
    if selector and mode == "SidecarMode":
        yield "clusterSelector is not for SidecarMode"
    if retries and selector:
        yield "backoffLimit is incompatible with clusterSelector"
    if retries and mode == "InteractiveMode":
        yield "backoffLimit is incompatible with InteractiveMode"
    if mode == "SidecarMode":
        if "submitterPodTemplate" in spec or "submitterConfig" in spec:
            yield "SidecarMode has no submitter of its own"
        if cluster and cluster["headGroupSpec"]["template"]["spec"].get("restartPolicy", "Never") != "Never":
            yield "restartPolicy of the head is not Never in SidecarMode"
    if retries < 0 or any(spec.get(k, 1) <= 0 for k in ("activeDeadlineSeconds", "preRunningDeadlineSeconds")):
        yield "a limit or a deadline is not positive"
    if cluster:
        if cluster.get("authOptions", {}).get("enableK8sTokenAuth"):
            yield "enableK8sTokenAuth is not for RayJobs"
        yield from _cluster(cluster, annotations)
    if "deletionStrategy" in spec:
        yield from _deletion(spec["deletionStrategy"], bool(selector), cluster or {}, shuts_down)


def _deletion(strategy: Json, selecting: bool, cluster: Json, shuts_down: bool) -> Iterator[str]:
    rules = strategy.get("deletionRules", [])
    ends = [strategy[k].get("policy") for k in ("onSuccess", "onFailure") if k in strategy]
    if rules and (shuts_down or ends):
        yield "deletionRules exclude shutdownAfterJobFinishes, onSuccess and onFailure"
    if not rules and (len(ends) < 2 or None in ends):
        yield "deletionStrategy needs deletionRules, or both onSuccess and onFailure"
    if shuts_down and "DeleteNone" in ends:
        yield "shutdownAfterJobFinishes excludes DeleteNone"
    policies = [*ends, *(rule["policy"] for rule in rules)]
    if selecting and {"DeleteCluster", "DeleteWorkers"} & set(policies):
        yield "a job on a cluster of others cannot delete it"
    if cluster.get("enableInTreeAutoscaling") and "DeleteWorkers" in policies:
        yield "DeleteWorkers is not for an autoscaled cluster"
    waits: dict[tuple[str, str], dict[str, int]] = {}
    for rule in rules:
        condition = rule["condition"]
        on = [(k, condition[k]) for k in ("jobStatus", "jobDeploymentStatus") if k in condition]
        if len(on) != 1 or condition.get("ttlSeconds", 0) < 0:
            yield "a deletion rule needs one of jobStatus and jobDeploymentStatus, and no negative ttlSeconds"
            continue
        if rule["policy"] in waits.setdefault(on[0], {}):
            yield f"two deletion rules for {rule['policy']} on {on[0][1]}"
        waits[on[0]][rule["policy"]] = condition.get("ttlSeconds", 0)
    for by_policy in waits.values():
        in_order = [by_policy[p] for p in ("DeleteWorkers", "DeleteCluster", "DeleteSelf") if p in by_policy]
        if in_order != sorted(in_order):
            yield "ttlSeconds must not fall from workers to cluster to the job itself"


def _service(spec: Json, annotations: Json) -> Iterator[str]:
    cluster, upgrade = spec["rayClusterConfig"], spec.get("upgradeStrategy", {})
    timeout = annotations.get("ray.io/initializing-timeout", "")
    if timeout and not re.fullmatch(r"[1-9]\d*|((\d+(\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h))+", timeout):
        yield "ray.io/initializing-timeout is no duration"
    if timeout and not re.search("[1-9]", timeout):
        yield "ray.io/initializing-timeout is not positive"
    if cluster.get("authOptions", {}).get("enableK8sTokenAuth"):
        yield "enableK8sTokenAuth is not for RayServices"
    yield from _cluster(cluster, annotations)
    if cluster["headGroupSpec"].get("headService", {}).get("metadata", {}).get("name"):
        yield "headService has a name"
    kind = upgrade.get("type", "None")
    if kind not in ("NewClusterWithIncrementalUpgrade", "NewCluster", "None"):
        yield f"there is no upgradeStrategy {kind}"
    if spec.get("rayClusterDeletionDelaySeconds", 0) < 0:
        yield "rayClusterDeletionDelaySeconds is negative"
    if kind != "NewClusterWithIncrementalUpgrade":
        return
    options = upgrade.get("clusterUpgradeOptions", {})
    surge, step = options.get("maxSurgePercent", 100), options.get("stepSizePercent", -1)
    if not cluster.get("enableInTreeAutoscaling"):
        yield "an incremental upgrade needs the autoscaler"
    if not 0 <= step <= surge <= 100:
        yield "an incremental upgrade needs 0 <= stepSizePercent <= maxSurgePercent <= 100"
    if options.get("intervalSeconds", 0) <= 0 or not options.get("gatewayClassName"):
        yield "an incremental upgrade needs intervalSeconds and gatewayClassName"


def _variables(group: Json) -> dict[str, str]:
    """The environment variables of a group's Ray container."""
    containers = group["template"]["spec"].get("containers") or [{}]
    return {v["name"]: v.get("value", "") for v in containers[0].get("env", [])}


def _version(text: str) -> tuple[int, ...]:
    """Numbers of a version; nothing, which is less than any, where it is none."""
    return tuple(map(int, text.split("."))) if re.fullmatch(r"\d+(\.\d+)+", text) else ()
