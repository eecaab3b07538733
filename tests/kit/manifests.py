"""What the schemas of Kubernetes do not see in rendered manifests: names that lead nowhere, and values that only its
API server refuses."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

Manifest = dict[str, Any]

PORT_NAME = re.compile(r"(?=.{1,15}$)[a-z0-9]([a-z0-9-]*[a-z0-9])?")
QUANTITY = re.compile(r"[0-9]+(\.[0-9]+)?(m|k|[MGTPE]|[KMGTPE]i)?")
LABEL = re.compile(r"(?=.{0,63}$)([A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?)?")
NAME = re.compile(r"(?=.{1,63}$)[a-z]([a-z0-9-]*[a-z0-9])?")
PROBES = ("startupProbe", "readinessProbe", "livenessProbe")
PROBE_KINDS = {"httpGet", "tcpSocket", "exec", "grpc"}
ENUMS = {
    "imagePullPolicy": {"Always", "IfNotPresent", "Never"},
    "effect": {"NoSchedule", "PreferNoSchedule", "NoExecute"},
    "operator": {"Exists", "Equal", "In", "NotIn", "DoesNotExist"},
    "whenUnsatisfiable": {"DoNotSchedule", "ScheduleAnyway"},
    "unhealthyPodEvictionPolicy": {"AlwaysAllow", "IfHealthyBudget"},
    "medium": {"", "Memory"},
    "restartPolicy": {"Always", "OnFailure", "Never"},
    "metricType": {"AverageValue", "Value", "Utilization"},
}


def faults(manifests: list[Manifest]) -> Iterator[str]:
    """One line each."""
    deployments = [each for each in manifests if each["kind"] == "Deployment"]
    for each in manifests:
        where = f"{each['kind']} {each['metadata']['name']}"
        if not NAME.fullmatch(each["metadata"]["name"]):
            yield f"{where}: not a name"
        yield from (f"{where}: {fault}" for fault in _values(each))
        yield from (f"{where}: {fault}" for fault in _of_kind(each, deployments, manifests))


def _values(node: Any) -> Iterator[str]:
    if isinstance(node, list):
        for each in node:
            yield from _values(each)
    elif isinstance(node, dict):
        for key, value in node.items():
            if key in ENUMS and isinstance(value, str) and value not in ENUMS[key]:
                yield f"{key}: {value}"
            if key in ("labels", "matchLabels") and isinstance(value, dict):
                yield from (f"label {name}: {text}" for name, text in value.items() if not LABEL.fullmatch(str(text)))
            if key in ("requests", "limits") and isinstance(value, dict):
                yield from (f"{name}: {size}" for name, size in value.items() if not QUANTITY.fullmatch(str(size)))
            if key == "sizeLimit" and not QUANTITY.fullmatch(str(value)):
                yield f"sizeLimit: {value}"
            yield from _values(value)


def _of_kind(manifest: Manifest, deployments: list[Manifest], manifests: list[Manifest]) -> Iterator[str]:
    spec = manifest.get("spec", {})
    match manifest["kind"]:
        case "Deployment":
            if not spec["selector"]["matchLabels"].items() <= spec["template"]["metadata"]["labels"].items():
                yield "its selector is not among its pods' labels"
            yield from _pod(spec["template"]["spec"], manifests)
        case "Service":
            ports = [port["targetPort"] for port in spec["ports"]]
            yield from _selected(spec["selector"], deployments, ports)
        case "PodDisruptionBudget":
            yield from _selected(spec["selector"]["matchLabels"], deployments, [])
        case "NetworkPolicy":
            ports = [port["port"] for rule in spec["ingress"] for port in rule.get("ports", [])]
            yield from _selected(spec["podSelector"]["matchLabels"], deployments, ports)
            for rule in spec["ingress"]:
                for peer in rule["from"]:
                    if "podSelector" in peer:
                        yield from _selected(peer["podSelector"]["matchLabels"], deployments, [])
        case "PodMonitor":
            ports = [each["port"] for each in spec["podMetricsEndpoints"]]
            yield from _selected(spec["selector"]["matchLabels"], deployments, ports)
        case "ScaledObject":
            target = spec["scaleTargetRef"]["name"]
            targets = [each for each in deployments if each["metadata"]["name"] == target]
            if not targets or "replicas" in targets[0]["spec"]:
                yield f"{target} is not there to be scaled, or says its replicas itself"


def _selected(selector: dict[str, str], deployments: list[Manifest], ports: list[str]) -> Iterator[str]:
    """That the selector finds pods, and every port is one of theirs."""
    pods = [each["spec"]["template"] for each in deployments]
    found = [pod for pod in pods if selector.items() <= pod["metadata"]["labels"].items()]
    if not found:
        yield f"selects no pod: {selector}"
    names = {port["name"] for pod in found for each in containers(pod["spec"]) for port in each.get("ports", [])}
    yield from (f"no pod has a port {port}" for port in ports if port not in names)


def containers(pod: Manifest) -> list[Manifest]:
    return [*pod.get("initContainers", []), *pod["containers"]]


def _pod(pod: Manifest, manifests: list[Manifest]) -> Iterator[str]:
    volumes = {volume["name"]: volume for volume in pod.get("volumes", [])}
    maps = {each["metadata"]["name"] for each in manifests if each["kind"] == "ConfigMap"}
    for name, volume in volumes.items():
        if len(volume) != 2:
            yield f"volume {name} has {len(volume) - 1} sources"
        if (source := volume.get("configMap")) and source["name"] not in maps:
            yield f"volume {name}: there is no ConfigMap {source['name']}"
    for container in containers(pod):
        mounts = container.get("volumeMounts", [])
        yield from (f"no volume {mount['name']}" for mount in mounts if mount["name"] not in volumes)
        if len({mount["mountPath"] for mount in mounts}) < len(mounts):
            yield f"{container['name']}: two mounts on one path"
        yield from _container(container)
        environment = {each["name"]: each.get("value", "") for each in container.get("env", [])}
        if len(environment) < len(container.get("env", [])):
            yield f"{container['name']}: a variable is set twice"
        before = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        if pod["terminationGracePeriodSeconds"] < float(environment.get("DRAIN_SECONDS", "0")) + before + 10:
            yield f"{container['name']}: killed while it drains"
    unused = set(volumes) - {mount["name"] for each in containers(pod) for mount in each.get("volumeMounts", [])}
    yield from (f"volume {name} is mounted nowhere" for name in unused)


def _container(container: Manifest) -> Iterator[str]:
    ports = {port["name"] for port in container.get("ports", [])}
    yield from (f"port name {name}" for name in ports if not PORT_NAME.fullmatch(name))
    for kind in PROBES:
        probe = container.get(kind)
        if probe is None:
            continue
        asked = PROBE_KINDS & set(probe)
        if len(asked) != 1:
            yield f"{container['name']}: {kind} asks in {len(asked)} ways"
        for each in asked:
            if (port := probe[each].get("port")) is not None and port not in ports:
                yield f"{container['name']}: {kind} asks a port {port} that it has not"
