"""config.pbtxt and its variants against each other, the model's code and the shim's."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import text_format  # type: ignore[import-untyped]
from qwen_edit.request import TENSORS
from tritonclient.grpc.model_config_pb2 import DataType, ModelConfig, ModelInput, ModelInstanceGroup, ModelOutput
from tritonclient.utils import np_to_triton_dtype

ROOT = Path(__file__).resolve().parents[1]
MODEL = ROOT / "model_repository" / "qwen_image_edit"
SHIM = ROOT / "shim" / "running" / "triton.py"
CONFIGS = {"config.pbtxt": "KIND_GPU", "configs/balanced.pbtxt": "KIND_MODEL", "configs/cpu.pbtxt": "KIND_CPU"}
TYPES_OF_KIND = {"O": {"TYPE_STRING"}, "i": {"TYPE_INT32", "TYPE_INT64"}, "f": {"TYPE_FP32", "TYPE_FP64"}}


def read(name: str) -> ModelConfig:
    return text_format.Parse((MODEL / name).read_text("utf-8"), ModelConfig())


@pytest.fixture(scope="module")
def config() -> ModelConfig:
    return read("config.pbtxt")


def type_name(tensor: ModelInput | ModelOutput) -> str:
    name: str = DataType.Name(tensor.data_type)
    return name


def triton_name(type_name: str) -> str:
    """TYPE_FP32 is FP32 in requests; TYPE_STRING alone has another name there."""
    return "BYTES" if type_name == "TYPE_STRING" else type_name.removeprefix("TYPE_")


def calls(path: Path) -> Iterator[tuple[str, list[ast.expr]]]:
    """The calls in a source file: the function's last name and its arguments."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call):
            function = node.func
            name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
            yield name, node.args


def text_of(node: ast.expr) -> str:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def numpy_type(node: ast.expr) -> str:
    """Triton's name for `np.int64` and the like; empty for any other expression."""
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "np":
        return str(np_to_triton_dtype(getattr(np, node.attr)))
    return ""


def reply_outputs() -> dict[str, str]:
    """Output name → Triton type, empty where the code does not say, of what model.py answers."""
    tree = ast.parse((MODEL / "1" / "model.py").read_text("utf-8"))
    found: dict[str, str] = {}
    assignments = (node for node in ast.walk(tree) if isinstance(node, ast.Assign))
    for node in sorted(assignments, key=lambda node: node.lineno):
        if ast.unparse(node.targets[0]) == "outputs" and isinstance(node.value, ast.Dict):
            pairs = zip(node.value.keys, node.value.values, strict=True)
            found |= {text_of(key): made_type(value) for key, value in pairs if key is not None}
    assert found, "model.py has no dict named outputs"
    return found


def made_type(node: ast.expr) -> str:
    return numpy_type(node.args[1]) if isinstance(node, ast.Call) and len(node.args) == 2 else ""


def sent_inputs() -> list[tuple[str, str]]:
    """(name, Triton type) of every tensor that the shim sends."""
    found = [
        (text_of(arguments[0]), "BYTES" if function == "byte_strings" else text_of(arguments[1]))
        for function, arguments in calls(SHIM)
        if function in ("byte_strings", "numbers") or (function == "Tensor" and isinstance(arguments[0], ast.Constant))
    ]
    assert all(name and kind for name, kind in found), f"a tensor's name or type cannot be read from the code: {found}"
    return found


@pytest.mark.parametrize("name", CONFIGS)
def test_every_configuration_names_the_model_and_the_python_backend(name: str) -> None:
    parsed = read(name)

    assert (parsed.name, parsed.backend) == ("qwen_image_edit", "python")


@pytest.mark.parametrize("name", CONFIGS)
def test_configurations_differ_in_nothing_but_their_instances(name: str, config: ModelConfig) -> None:
    other = read(name)
    expected = ModelConfig()
    expected.CopyFrom(config)
    for message in (other, expected):
        message.ClearField("instance_group")

    assert text_format.MessageToString(other) == text_format.MessageToString(expected)


@pytest.mark.parametrize(("name", "kind"), CONFIGS.items())
def test_a_configuration_has_one_instance_of_its_kind(name: str, kind: str) -> None:
    (group,) = read(name).instance_group

    assert (group.count, ModelInstanceGroup.Kind.Name(group.kind)) == (1, kind)


def test_every_configuration_file_is_tested() -> None:
    files = {str(path.relative_to(MODEL)) for path in MODEL.rglob("*.pbtxt")}

    assert files == set(CONFIGS)


@pytest.mark.parametrize("name", CONFIGS)
def test_triton_hands_requests_over_one_at_a_time_and_keeps_no_queue_policy(name: str) -> None:
    batching = read(name).dynamic_batching

    assert list(batching.preferred_batch_size) == [1]
    assert [field.name for field, _ in batching.ListFields()] == ["preferred_batch_size"]


def test_the_model_is_not_decoupled_so_that_plain_http_can_call_it(config: ModelConfig) -> None:
    assert not config.model_transaction_policy.decoupled


def test_inputs_are_those_that_the_model_reads(config: ModelConfig) -> None:
    assert [tensor.name for tensor in config.input] == list(TENSORS)


@pytest.mark.parametrize("name", TENSORS)
def test_an_input_has_the_kind_shape_and_optionality_that_the_model_expects(name: str, config: ModelConfig) -> None:
    kind, shape = TENSORS[name]
    (tensor,) = (tensor for tensor in config.input if tensor.name == name)

    assert type_name(tensor) in TYPES_OF_KIND[kind]
    assert tuple(tensor.dims) == shape
    assert tensor.optional, "what is missing is told by the model, in its own words"


def test_outputs_are_those_that_the_model_answers(config: ModelConfig) -> None:
    assert [tensor.name for tensor in config.output] == list(reply_outputs())


def test_outputs_that_the_model_makes_have_the_declared_type(config: ModelConfig) -> None:
    declared = {tensor.name: triton_name(type_name(tensor)) for tensor in config.output}
    made = {name: kind for name, kind in reply_outputs().items() if kind}

    assert made
    assert made == {name: declared[name] for name in made}


def test_the_shim_sends_declared_inputs_with_the_declared_types(config: ModelConfig) -> None:
    declared = {tensor.name: triton_name(type_name(tensor)) for tensor in config.input}
    sent = sent_inputs()

    assert sent
    assert sent == [(name, declared.get(name)) for name, _ in sent]


def test_the_shim_reads_declared_outputs(config: ModelConfig) -> None:
    nodes = ast.walk(ast.parse(SHIM.read_text("utf-8")))
    reading = [node for node in nodes if isinstance(node, ast.Call) and ast.unparse(node.func) == "tensors.get"]
    read_outputs = {text_of(call.args[0]) for call in reading}

    assert read_outputs
    assert read_outputs <= {tensor.name for tensor in config.output}
