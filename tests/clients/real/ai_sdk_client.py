"""Vercel's AI SDK with both of its providers: make test-clients"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.clients.conftest import Service
from tests.clients.real.conftest import Outcomes, outcomes_of
from tests.kit.servers import Server
from tests.kit.wire import Tee, save

SCRIPT = Path(__file__).with_name("ai_sdk_edits.mjs")
SENT = (
    *("openai: edit", "openai: mask", None, None, "openai: n=2, named like OpenAI's", None, "openai: refused"),
    *("compatible: edit", "compatible: mask", "compatible: two pictures, n=2", "compatible: refused"),
)


@pytest.fixture(scope="module")
def outcomes(
    service: Service, front: Tee, small: Path, tool: Callable[..., Path], program: Callable[[str], str]
) -> Outcomes:
    modules = tool("ai_sdk", "node_modules")
    outcomes = outcomes_of(program("node"), SCRIPT, modules, front.url, service.url, service.key, small)
    save("ai_sdk", front.exchanges, *SENT)
    return outcomes


@pytest.mark.parametrize("name", ["openai: edit", "openai: mask", "compatible: edit", "compatible: mask"])
def test_a_picture_is_edited(outcomes: Outcomes, name: str) -> None:
    edited = outcomes[name]
    assert (edited["pictures"], edited["warnings"]) == (["image/png"], 0)
    assert edited["tokens"] > 0


@pytest.mark.parametrize("name", ["openai: n=2", "openai: n=2, named like OpenAI's", "compatible: two pictures, n=2"])
def test_n_counts_outputs(outcomes: Outcomes, name: str) -> None:
    assert outcomes[name]["pictures"] == ["image/png", "image/png"]


def test_the_provider_for_openai_makes_a_call_for_each_output_and_drops_fields_of_ours(
    outcomes: Outcomes, front: Tee
) -> None:
    one, _, *halves, _, with_fields = (sent.body for sent in front.exchanges[:6])
    assert halves == [one, one]
    assert with_fields == one
    assert outcomes["openai: own fields"]["warnings"] == 1


@pytest.mark.parametrize("name", ["openai: refused", "compatible: refused"])
def test_a_refusal_says_why(outcomes: Outcomes, name: str) -> None:
    refused = outcomes[name]
    assert (refused["error"], refused["status"]) == ("AI_APICallError", 400)
    assert refused["message"].startswith("size must be")
    assert "12x12" in refused["message"]


def test_an_aborted_edit_ends(outcomes: Outcomes, stack: Server) -> None:
    assert outcomes["compatible: abort"]["error"] == "AbortError"
    stack.wait_for(lambda: stack.metric("qwen_edit_jobs") == 0, seconds=60)
    assert stack.metric("qwen_edit_edits_total", outcome="cancelled") >= 1
