"""Qwen-Image-2.1 in this process; a file of tests names the area of its references, AREA, in pixels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kit.engines import TestEngine, engine_on, load_pipeline


@pytest.fixture(scope="module")
def pipeline(sensitive: Callable[[str], Path]) -> Any:
    return load_pipeline(sensitive("2.1"))


@pytest.fixture
def engine(pipeline: Any, request: pytest.FixtureRequest) -> Iterator[TestEngine]:
    with engine_on(pipeline, reference_area=request.module.AREA) as running:
        yield running
