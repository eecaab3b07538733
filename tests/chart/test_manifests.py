"""The Helm chart over many values: what is rendered is checked as a cluster would check it, and faults are planted."""

from __future__ import annotations

import copy
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from qwen_edit.settings import Settings as ModelSettings

import shim.settings
import standalone.settings
from tests.kit.chart import ALL, LEAST, Helm, Manifest, environment_of, one, pod_of
from tests.kit.manifests import faults

SchemaFaults = Callable[[list[Manifest]], list[str]]
NO_KEYS = "shim.allowNoAuth=true"
MATRIX: dict[str, tuple[str, ...]] = {
    "least": LEAST,
    "all": ALL,
    "no keys": ("weights.claim=w", NO_KEYS),
    "host path": ("weights.hostPath=/data", NO_KEYS),
    "image volume": ("weights.image=registry.example/weights:1", NO_KEYS),
    "one shim, two GPUs a pod": (*LEAST, "shim.replicas=1", "triton.gpus=2", "triton.settings.DEVICE_MAP=balanced"),
    "a transformer on each of two GPUs": (*LEAST, "triton.settings.GPUS_PER_INSTANCE=2"),
    "settings": (*LEAST, "triton.settings.MAX_JOBS=32", "shim.settings.LOG_PROMPTS=false", "triton.maxSurge=1"),
    "places": (*LEAST, "triton.nodeSelector.gpu=h100", "triton.runtimeClassName=nvidia", "shim.tolerations[0].key=a",
               "shim.tolerations[0].operator=Exists", "images.pullSecrets[0]=registry"),
    "open network": (*LEAST, "networkPolicy.enabled=false", "service.type=LoadBalancer", "service.port=80"),
    "slow": (*LEAST, "shim.requestTimeoutSeconds=3600", "triton.drainSeconds=600", "triton.startMinutes=90"),
}  # fmt: skip

REFUSED = {
    "images.pullPolicy=Sometimes": "/images/pullPolicy",
    "triton.memory=72GiB": "/triton/memory",
    "triton.gpu=2": "'gpu'",
    "triton.settings.MAX_JOB=3": "'MAX_JOB'",
    "triton.replicas=two": "/triton/replicas",
    "shim.existingSecret=Not_A_Name": "/shim/existingSecret",
    "service.port=70000": "/service/port",
    "weights.hostPath=/data": "/weights",  # beside the claim
    "autoscaling.minReplicas=0": "/autoscaling/minReplicas",
}


def test_every_combination_of_values_is_sound(helm: Helm, schema_faults: SchemaFaults) -> None:
    rendered = {name: helm.render(*values) for name, values in MATRIX.items()}
    assert {name: found for name, each in rendered.items() if (found := list(faults(each)))} == {}
    different: list[Manifest] = []
    for manifest in (manifest for each in rendered.values() for manifest in each):
        if manifest not in different:
            different.append(manifest)
    assert schema_faults(different) == []


@pytest.mark.parametrize("name", ["least", "all"])
def test_lint_finds_nothing(helm: Helm, name: str) -> None:
    done = helm.run("lint", *MATRIX[name])
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(("value", "named"), REFUSED.items(), ids=REFUSED)
def test_a_value_that_is_not_allowed_is_refused_by_its_name(helm: Helm, value: str, named: str) -> None:
    done = helm.run("template", *LEAST, value)
    assert done.returncode != 0
    assert named in done.stderr


def test_weights_have_to_be_somewhere_and_keys_are_not_forgotten(helm: Helm) -> None:
    assert "/weights" in helm.run("template", NO_KEYS).stderr
    assert "shim.existingSecret" in helm.run("template", "weights.claim=w").stderr


def container(manifests: list[Manifest], part: str) -> Any:
    (found,) = pod_of(manifests, part)["containers"]
    return found


@pytest.mark.parametrize(("values", "gpus"), [((), 1), (("triton.settings.GPUS_PER_INSTANCE=2",), 2)], ids=str)
def test_a_pod_has_the_gpus_of_its_instance(helm: Helm, values: tuple[str, ...], gpus: int) -> None:
    limits = container(helm.render(*LEAST, *values), "triton")["resources"]["limits"]
    assert limits["nvidia.com/gpu"] == gpus


def misspell(them: list[Manifest]) -> None:
    pod_of(them, "triton")["terminationGracePeriodSecond"] = 90


def wrong_type(them: list[Manifest]) -> None:
    one(them, "Deployment", "shim")["spec"]["replicas"] = "two"


def no_selector(them: list[Manifest]) -> None:
    del one(them, "Deployment", "shim")["spec"]["selector"]


def other_selector(them: list[Manifest]) -> None:
    one(them, "Deployment", "triton")["spec"]["selector"]["matchLabels"]["app.kubernetes.io/component"] = "server"


def long_port(them: list[Manifest]) -> None:
    container(them, "triton")["ports"][0]["name"] = "a-port-name-that-is-long"


def wrong_quantity(them: list[Manifest]) -> None:
    container(them, "triton")["resources"]["limits"]["memory"] = "72GiB"


def port_of_nobody(them: list[Manifest]) -> None:
    one(them, "Service", "shim")["spec"]["ports"][0]["targetPort"] = "web"


def two_probes(them: list[Manifest]) -> None:
    container(them, "shim")["livenessProbe"]["tcpSocket"] = {"port": "http"}


def killed_early(them: list[Manifest]) -> None:
    pod_of(them, "shim")["terminationGracePeriodSeconds"] = 90


def mount_of_nothing(them: list[Manifest]) -> None:
    container(them, "triton")["volumeMounts"][0]["name"] = "models"


def no_mount(them: list[Manifest]) -> None:
    container(them, "triton")["volumeMounts"].pop(0)


def bad_enum(them: list[Manifest]) -> None:
    container(them, "shim")["imagePullPolicy"] = "Sometimes"


def unknown_trigger(them: list[Manifest]) -> None:
    one(them, "ScaledObject")["spec"]["minReplicas"] = 1


PLANTED = (
    misspell, wrong_type, no_selector, other_selector, long_port, wrong_quantity, port_of_nobody, two_probes,
    killed_early, mount_of_nothing, no_mount, bad_enum, unknown_trigger,
)  # fmt: skip
SEEN_BY_SCHEMAS = (misspell, wrong_type, no_selector, unknown_trigger)


def planted(plant: Callable[[list[Manifest]], None], everything: list[Manifest]) -> list[Manifest]:
    faulty = copy.deepcopy(everything)
    plant(faulty)
    return [each for each, sound in zip(faulty, everything, strict=True) if each != sound]


def test_every_planted_fault_is_found(everything: list[Manifest], schema_faults: SchemaFaults) -> None:
    for plant in PLANTED:
        if plant not in SEEN_BY_SCHEMAS:
            faulty = copy.deepcopy(everything)
            plant(faulty)
            assert list(faults(faulty)), plant.__name__
    seen = [manifest for plant in SEEN_BY_SCHEMAS for manifest in planted(plant, everything)]
    assert len(seen) == len(SEEN_BY_SCHEMAS)
    for number, manifest in enumerate(seen):
        manifest["metadata"]["name"] = f"planted-{number}"
    found = {line.split()[1] for line in schema_faults(seen)}
    assert found == {f"planted-{number}" for number in range(len(seen))}
    assert list(faults(everything)) == []


def test_a_setting_reaches_its_part_as_it_was_meant(helm: Helm) -> None:
    """Helm reads numbers as floats, and prints large ones with an exponent."""
    values = ("triton.settings.MAX_PIXELS=2359296", "triton.settings.STRETCH=1.5", "shim.settings.LOG_PROMPTS=false")
    manifests = helm.render(*LEAST, *values)
    triton, front = (environment_of(container(manifests, part)) for part in ("triton", "shim"))
    model = ModelSettings.from_environment(triton)
    assert (model.limits.pixels, model.stretch) == (2359296, 1.5)
    assert not shim.settings.Settings.from_environment(front).log_prompts


def test_the_parts_understand_what_the_chart_tells_them(helm: Helm) -> None:
    manifests = helm.render(*LEAST, "shim.requestTimeoutSeconds=600", "triton.drainSeconds=120")
    triton, front = (environment_of(container(manifests, part)) for part in ("triton", "shim"))
    read = shim.settings.Settings.from_environment({**front, "DRAIN_SECONDS": ""})
    assert read.drains_for == float(front["DRAIN_SECONDS"]) == 610
    assert standalone.settings.Settings.from_environment(triton).drains_for == 120
    assert read.served_model == "Qwen-Image-Edit-2511"


def test_haproxy_takes_its_configuration_with_the_sidecars_environment(
    everything: list[Manifest], program: Callable[[str], str], tmp_path: Path
) -> None:
    (sidecar,) = pod_of(everything, "shim")["initContainers"]
    written = tmp_path / "haproxy.cfg"
    written.write_text(one(everything, "ConfigMap", "haproxy")["data"]["haproxy.cfg"])
    environment = environment_of(sidecar)
    assert (
        environment["TRITON_HOST"]
        == f"{one(everything, 'Service', 'triton')['metadata']['name']}.prod.svc.cluster.local"
    )
    command = [program("haproxy"), "-c", "-f", str(written)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr


def test_tritons_that_drain_stay_in_the_dns(everything: list[Manifest]) -> None:
    assert one(everything, "Service", "triton")["spec"]["publishNotReadyAddresses"] is True


def test_what_every_container_may_not(everything: list[Manifest]) -> None:
    for part in ("triton", "shim"):
        pod = pod_of(everything, part)
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["automountServiceAccountToken"] is False
        for each in [*pod.get("initContainers", []), *pod["containers"]]:
            assert each["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert each["securityContext"].get("readOnlyRootFilesystem", False) == (part == "shim")


def test_no_key_is_a_value(everything: list[Manifest]) -> None:
    assert not re.search(r"API_KEY\b(?!_FILE)", str(everything))
