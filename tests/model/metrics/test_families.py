"""The engine's metrics by name and label, made by something that remembers them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pytest
from qwen_edit.metrics.families import BEAT_SECONDS, STEPS_OF_A_BEAT, EngineMetrics


@dataclass
class Series:
    labels: dict[str, str]
    value: float = 0.0
    observed: list[float] = field(default_factory=list)

    def increment(self, value: float) -> None:
        self.value += value

    def set(self, value: float) -> None:
        self.value = value

    def observe(self, value: float) -> None:
        self.observed.append(value)


class Registry:
    def __init__(self) -> None:
        self.made: dict[str, list[Series]] = {}
        self.now = 100.0

    def __call__(
        self, name: str, description: str, kind: str, labels: Mapping[str, str], buckets: Sequence[float] = ()
    ) -> Series:
        assert (kind == "HISTOGRAM") == bool(buckets)
        self.made.setdefault(name, []).append(Series(dict(labels)))
        return self.made[name][-1]

    def one(self, name: str) -> Series:
        (series,) = self.made[f"qwen_edit_{name}"]
        return series


@pytest.fixture
def registry() -> Registry:
    return Registry()


@pytest.fixture
def metrics(registry: Registry) -> EngineMetrics:
    about = {"model_info": {"model": "Qwen-Image-Edit-2511"}}
    return EngineMetrics(registry, "gpu-0", max_jobs=64, about=about, clock=lambda: registry.now)


def test_every_series_names_its_engine_and_none_takes_the_label_of_the_scraped_address(
    metrics: EngineMetrics, registry: Registry
) -> None:
    series = [each for family in registry.made.values() for each in family]
    assert {each.labels["engine"] for each in series} == {"gpu-0"}
    assert not any("instance" in each.labels for each in series)


def test_an_info_is_one_and_says_what_the_engine_is(metrics: EngineMetrics, registry: Registry) -> None:
    info = registry.one("model_info")
    assert (info.value, info.labels["model"]) == (1, "Qwen-Image-Edit-2511")
    assert registry.one("max_jobs").value == 64


def test_the_heartbeat_has_its_old_name_too(metrics: EngineMetrics, registry: Registry) -> None:
    metrics.heartbeat(1795000000.0)
    assert registry.one("heartbeat_timestamp_seconds").value == 1795000000.0
    assert registry.one("heartbeat_seconds").value == 1795000000.0


def test_the_queue_of_a_continued_edit_counts_as_time_and_not_as_an_edits_wait(
    metrics: EngineMetrics, registry: Registry
) -> None:
    metrics.began(2.0, 0.5, new=True)
    metrics.began(1.0, 0.5, new=False)
    metrics.first_step(3.5)
    spent = {each.labels["stage"]: each.value for each in registry.made["qwen_edit_seconds_total"]}
    assert (spent["queue"], spent["encode"]) == (3.0, 1.0)
    assert registry.one("queue_seconds").observed == [2.0]
    assert registry.one("first_step_seconds").observed == [3.5]


def test_an_engine_without_a_heartbeat_is_not_alive_however_long_its_steps_are(
    metrics: EngineMetrics, registry: Registry
) -> None:
    registry.now += BEAT_SECONDS
    assert metrics.alive
    registry.now += 0.1
    assert not metrics.alive
    metrics.seconds("denoise", 5.0)
    assert metrics.alive
    registry.now += STEPS_OF_A_BEAT * 5.0
    assert not metrics.alive
    metrics.heartbeat(1.0)
    assert metrics.alive
