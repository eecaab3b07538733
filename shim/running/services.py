"""What serves every run, and lives as long as the process."""

from __future__ import annotations

from dataclasses import dataclass

from anyio import CapacityLimiter

from shim.guards.flood import Flood
from shim.guards.keys import Keys
from shim.metrics import Metrics
from shim.reading.spool import Spool
from shim.running.abilities import Told
from shim.running.readiness import Readiness
from shim.running.segments import Model
from shim.settings import Settings


@dataclass(frozen=True)
class Services:
    settings: Settings
    keys: Keys
    model: Model
    readiness: Readiness
    told: Told
    flood: Flood
    spool: Spool
    threads: CapacityLimiter  # for what takes a core, or much memory
    metrics: Metrics
