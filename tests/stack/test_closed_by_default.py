"""What a running server does not offer to whoever reaches its ports."""

from __future__ import annotations

import psutil
import pytest
import requests
import tritonclient.grpc
from tritonclient.utils import InferenceServerException

from tests.kit.servers import Server
from tests.kit.stacks import tritonserver

RESTRICTED = [
    ("POST", "/v2/repository/index"),
    ("POST", "/v2/repository/models/qwen_image_edit/load"),
    ("POST", "/v2/repository/models/qwen_image_edit/unload"),
    ("GET", "/v2/systemsharedmemory/status"),
    ("POST", "/v2/systemsharedmemory/region/x/register"),
    ("GET", "/v2/cudasharedmemory/status"),
    ("GET", "/v2/logging"),
    ("POST", "/v2/logging"),
    ("GET", "/v2/trace/setting"),
    ("POST", "/v2/trace/setting"),
]


def test_every_port_is_on_loopback(stack: Server) -> None:
    listening = {
        connection.laddr.ip.removeprefix("::ffff:")
        for process in [psutil.Process(stack.process.pid), *psutil.Process(stack.process.pid).children(recursive=True)]
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening == {"127.0.0.1"}


@pytest.mark.parametrize(("method", "path"), RESTRICTED)
@pytest.mark.parametrize("headers", [{}, {"qwen-edit-key": "guessed"}], ids=["no key", "a wrong key"])
def test_an_api_beside_inference_wants_a_key_over_http(
    stack: Server, method: str, path: str, headers: dict[str, str]
) -> None:
    answer = requests.request(method, f"http://{stack.triton_http}{path}", headers=headers, json={}, timeout=10)
    assert answer.status_code == 403


@pytest.mark.parametrize(
    "call", ["get_model_repository_index", "get_system_shared_memory_status", "get_log_settings", "get_trace_settings"]
)
def test_an_api_beside_inference_wants_a_key_over_grpc(stack: Server, call: str) -> None:
    with (
        tritonclient.grpc.InferenceServerClient(stack.triton_grpc) as client,
        pytest.raises(InferenceServerException, match="restricted"),
    ):
        getattr(client, call)()


def restricting_flags(server: Server) -> set[str]:
    return {argument for argument in tritonserver(server).cmdline() if "-restricted-" in argument}


def test_no_model_can_be_loaded_even_with_the_key(stack: Server) -> None:
    key = restricting_flags(stack).pop().rsplit("=", 1)[1]
    config = {"parameters": {"config": "{}", "file:1/model.py": "cHJpbnQoMSk="}}
    answer = requests.post(
        f"http://{stack.triton_http}/v2/repository/models/another/load",
        headers={"qwen-edit-key": key}, json=config, timeout=10,
    )  # fmt: skip
    assert answer.status_code >= 400
    assert "explicit" in answer.text


def test_the_key_is_another_at_every_start(stack: Server, crowded: Server) -> None:
    assert len(restricting_flags(stack) | restricting_flags(crowded)) == 4
