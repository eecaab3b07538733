"""LiteLLM's proxy in front of the server, called by OpenAI's SDK: make test-clients"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import openai
import pytest
import requests

from tests.clients.conftest import Service
from tests.clients.real.conftest import Outcomes
from tests.kit.servers import Server, environment, free_ports, run
from tests.kit.wire import Tee, load, save

PROXY_KEY = "sk-of-the-proxy"
SENT = ("start", "edit", "mask", "two pictures, n=2", "refused", "stream", "health")


@pytest.fixture(scope="module")
def proxy(
    service: Service, front: Tee, tool: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    served = {
        "model_name": "qwen-image-edit",
        "litellm_params": {"model": "openai/qwen-image-edit", "api_base": f"{front.url}/v1", "api_key": service.key},
        "model_info": {"mode": "image_edit"},
    }
    config = tmp_path_factory.mktemp("proxy") / "config.yaml"
    config.write_text(json.dumps({"model_list": [served], "general_settings": {"master_key": PROXY_KEY}}))
    (port,) = free_ports(1)
    command = [str(tool("litellm_proxy", "bin", "litellm")), "--config", str(config), "--host", "127.0.0.1"]
    env = environment(LITELLM_LOCAL_MODEL_COST_MAP="True", PYTHONPATH="")
    with run([*command, "--port", str(port)], env, port) as proxy:
        proxy.wait_ready(240, "/health/liveliness")
        yield proxy


@pytest.fixture(scope="module")
def outcomes(proxy: Server, front: Tee, small: Path) -> Outcomes:
    photo, mask = (small / "photo.jpg").read_bytes(), (small / "mask.png").read_bytes()
    headers = {"Authorization": f"Bearer {PROXY_KEY}"}
    with openai.OpenAI(base_url=f"{proxy.url}/v1", api_key=PROXY_KEY, max_retries=0) as client:
        edit = partial(client.images.edit, model="qwen-image-edit", prompt="make it a drawing", size="64x64")
        outcomes = {
            "edit": outcome(lambda: edit(image=photo, extra_body={"seed": 7, "steps": 3})),
            "mask": outcome(lambda: edit(image=photo, mask=mask, size="auto")),
            "two pictures, n=2": outcome(lambda: edit(image=[photo, photo], n=2)),
            "refused": outcome(lambda: edit(image=photo, size="12x12")),
            "stream": outcome(lambda: edit(image=photo, stream=True)),
            "health": requests.get(f"{proxy.url}/health", headers=headers, timeout=240).json(),
        }
    save("litellm_proxy", front.exchanges, *SENT)
    return outcomes


def outcome(run: Callable[[], Any]) -> dict[str, Any]:
    try:
        answer = run()
    except openai.APIStatusError as error:
        return {"status": error.status_code, "message": str(error)}
    return {"pictures": len(answer.data), "tokens": answer.usage.total_tokens}


@pytest.mark.parametrize(("name", "pictures"), [("edit", 1), ("mask", 1), ("two pictures, n=2", 2)])
def test_pictures_are_edited(outcomes: Outcomes, name: str, pictures: int) -> None:
    edited = outcomes[name]
    assert edited["pictures"] == pictures
    assert edited["tokens"] > 0


def test_a_refusal_says_why(outcomes: Outcomes) -> None:
    refused = outcomes["refused"]
    assert refused["status"] == 400
    assert "size must be" in refused["message"]
    assert "12x12" in refused["message"]


def test_its_health_check_edits_a_picture(outcomes: Outcomes) -> None:
    health = outcomes["health"]
    assert (health["healthy_count"], health["unhealthy_count"]) == (1, 0)


def test_a_stream_is_its_internal_error_though_it_was_answered_with_one(outcomes: Outcomes) -> None:
    assert outcomes["stream"]["status"] == 500
    (sent,) = (sent for sent in load("litellm_proxy") if sent.what == "stream")
    assert (sent.status, sent.answer) == (200, ["image_edit.completed"])
