"""Direct inference on the running Triton, and a stack with the Edit family."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy.typing as npt
import pytest
import torch
import tritonclient.grpc
import tritonclient.http
from diffusers import AutoencoderKLQwenImage

from checkpoints.random_weights import write_checkpoint
from tests.kit.servers import Server, serve
from tests.kit.tensors import MODEL, inputs


class Infer(Protocol):
    """One inference call: tensors by name → output tensors by name, without the batch dimension.

    A plain value or a list of them becomes a tensor of the contract's type; an array is sent as it is. `parameters` are
    the request's.
    """

    def __call__(self, parameters: dict[str, Any] | None = None, **tensors: Any) -> dict[str, npt.NDArray[Any]]: ...


@pytest.fixture(scope="session")
def http_rows(stack: Server) -> Iterator[Infer]:
    """With the batch dimension."""
    with tritonclient.http.InferenceServerClient(stack.triton_http, network_timeout=60.0) as client:

        def infer(parameters: dict[str, Any] | None = None, **tensors: Any) -> dict[str, npt.NDArray[Any]]:
            result = client.infer(MODEL, inputs(tritonclient.http, **tensors), parameters=parameters)
            return {output["name"]: result.as_numpy(output["name"]) for output in result.get_response()["outputs"]}

        yield infer


@pytest.fixture(scope="session")
def grpc_rows(stack: Server) -> Iterator[Infer]:
    """With the batch dimension."""
    with tritonclient.grpc.InferenceServerClient(stack.triton_grpc) as client:

        def infer(parameters: dict[str, Any] | None = None, **tensors: Any) -> dict[str, npt.NDArray[Any]]:
            sent = inputs(tritonclient.grpc, **tensors)
            result = client.infer(MODEL, sent, client_timeout=60.0, parameters=parameters)
            return {output.name: result.as_numpy(output.name) for output in result.get_response().outputs}

        yield infer


def _of_one(rows: Infer) -> Infer:
    def infer(parameters: dict[str, Any] | None = None, **tensors: Any) -> dict[str, npt.NDArray[Any]]:
        return {name: array[0] for name, array in rows(parameters, **tensors).items()}

    return infer


@pytest.fixture(scope="session")
def http_infer(http_rows: Infer) -> Infer:
    return _of_one(http_rows)


@pytest.fixture(scope="session")
def grpc_infer(grpc_rows: Infer) -> Infer:
    return _of_one(grpc_rows)


@pytest.fixture(params=["http", "grpc"])
def infer(request: pytest.FixtureRequest, alone: Server) -> Infer:
    chosen: Infer = request.getfixturevalue(f"{request.param}_infer")
    return chosen


@pytest.fixture(params=["http", "grpc"])
def rows(request: pytest.FixtureRequest, alone: Server) -> Infer:
    chosen: Infer = request.getfixturevalue(f"{request.param}_rows")
    return chosen


@pytest.fixture(scope="session")
def begin() -> Callable[..., tuple[Any, list[Any]]]:
    """Sends an edit over gRPC; returns the call, which can be cancelled, and the list that its outcome is put into."""

    def begin(client: Any, **tensors: Any) -> tuple[Any, list[Any]]:
        outcomes: list[Any] = []
        call = client.async_infer(
            MODEL, inputs(tritonclient.grpc, **tensors), lambda result, error: outcomes.append(error or result)
        )
        return call, outcomes

    return begin


@pytest.fixture(scope="session")
def edit_family(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The Edit family, its VAE as narrow as it can be: the classic default of 1024x1024 is slow to decode on a CPU."""
    folder = write_checkpoint(tmp_path_factory.mktemp("narrow") / "edit", "edit")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vae = AutoencoderKLQwenImage(z_dim=16, base_dim=2, dim_mult=[1, 1, 1, 1], num_res_blocks=0)
    vae.save_pretrained(folder / "vae")
    with serve(folder, DEFAULT_STEPS="2", REFERENCE_AREA="4096") as server:
        yield server
