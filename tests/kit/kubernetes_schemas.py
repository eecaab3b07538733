"""Rendered manifests against the schemas of Kubernetes, KEDA and the Prometheus operator.

Run by the Python of .tools/kubernetes: the manifests on standard input, a JSON list; a line for every fault.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import kubernetes_validate
from cloudcoil.models.keda.v1alpha1 import ScaledObject
from cloudcoil.models.prometheus_operator.v1 import PodMonitor, PrometheusRule

VERSIONS = ("1.31", "1.37")
MODELS = {"ScaledObject": ScaledObject, "PodMonitor": PodMonitor, "PrometheusRule": PrometheusRule}


def faults(manifest: dict[str, Any]) -> Iterator[str]:
    if model := MODELS.get(manifest["kind"]):
        try:
            model.model_validate(manifest, extra="forbid")
        except ValueError as error:
            yield str(error)
        return
    for version in VERSIONS:
        try:
            kubernetes_validate.validate(manifest, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            yield f"{version}: {error.message}"


for each in json.load(sys.stdin):
    for fault in faults(each):
        print(each["kind"], each["metadata"]["name"], " ".join(fault.split()))
