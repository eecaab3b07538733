"""Where each part of the pipeline computes, and where its weights wait."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from qwen_edit.device_errors import is_out_of_memory
from qwen_edit.families.family import Family
from qwen_edit.loading.checkpoint import LoadError
from qwen_edit.pipeline import Devices
from qwen_edit.settings import Settings

GIGABYTE = 10**9
ACTIVATION_BYTES = 4 * GIGABYTE  # kept free on every card that a pipeline is spread over
CPU = torch.device("cpu")

# What never divides between two devices.
WHOLE = ("QwenImageTransformerBlock", "Qwen2_5_VLDecoderLayer", "Qwen2_5_VLVisionBlock", "AutoencoderKLQwenImage")

# A transformer that does not either: the keys and values of a prefix lie on one device, all layers' together.
UNDIVIDED = "QwenImage21Transformer2DModel"

WRITES_CAPTIONS = "QwenImageLayeredPipeline"

DeviceMap = dict[str, int | str]  # name of a module → number of a GPU, or "cpu"


def check_offload(offload: str, device: torch.device) -> None:
    if offload != "none" and device.type != "cuda":
        raise LoadError(
            f"OFFLOAD={offload}: a CUDA GPU is needed, this instance runs on the {device.type.upper()}, "
            "where all weights are in main memory anyway"
        )


def replica_cards(settings: Settings, device: torch.device, family: Family) -> list[torch.device]:
    """The GPUs of an instance that has several; raises LoadError."""
    option, offload = f"GPUS_PER_INSTANCE={settings.gpus_per_instance}", settings.loading.offload
    if family.has_prefix:
        raise LoadError(
            f"{option}: not for a {family.pipeline} checkpoint, whose prefixes lie on one GPU; 1 is allowed"
        )
    if offload != "none":
        raise LoadError(f"OFFLOAD={offload}: not together with {option}, whose transformers stay where they are")
    if settings.device_map == "balanced":
        raise LoadError(f"DEVICE_MAP=balanced: not together with {option}: it divides the one, and these are whole")
    if device.type != "cuda":
        raise LoadError(f"{option}: CUDA GPUs are needed, this instance runs on the CPU; 1 is allowed")
    if device.index is not None:
        raise LoadError(f"{option}: this instance has one GPU; start Triton with --model-config-name=balanced")
    seen = torch.cuda.device_count()
    if seen != settings.gpus_per_instance:
        raise LoadError(f"{option}: this server sees {seen} GPUs, and its one instance has all of them")
    return [torch.device("cuda", number) for number in range(seen)]


def with_own_transformer(pipeline: Any) -> Any:
    """The same pipeline with a copy of its transformer, which lies where it does."""
    own = copy.copy(pipeline)
    own.transformer = copy.deepcopy(pipeline.transformer)
    return own


def place(pipeline: Any, device: torch.device, offload: str) -> Devices:
    """Moves the pipeline to one device, or has its weights come there when they are needed."""
    if offload == "none":
        for part in parts_of(pipeline).values():
            part.to(device)
        return Devices.all(device)
    pipeline.vae.to(device)
    if offload == "model":
        Exchange([pipeline.transformer, pipeline.text_encoder.model], device)
    else:
        _stream_in_groups(pipeline, device)
    return Devices.all(device)


class Exchange:
    """Keeps the one module on the device that ran last; the others wait in main memory."""

    def __init__(self, modules: Sequence[torch.nn.Module], device: torch.device) -> None:
        self._device = device
        self._resident: torch.nn.Module | None = None
        for module in modules:
            module.register_forward_pre_hook(lambda module, _: self.admit(module))

    def admit(self, module: torch.nn.Module) -> None:
        if module is self._resident:
            return
        if self._resident is not None:
            self._resident.to(CPU)
        # Should the move fail, the module lies on two devices: it is brought back whole before it is tried again.
        self._resident = None
        try:
            module.to(self._device)
        except Exception as error:
            if is_out_of_memory(error):
                module.to(CPU)
            raise
        self._resident = module


def _stream_in_groups(pipeline: Any, device: torch.device) -> None:
    """Block after block comes to the device, the next one's copy under the computation of the last."""
    from diffusers.hooks import apply_group_offloading

    streams = {"onload_device": device, "offload_device": CPU, "use_stream": device.type == "cuda"}
    apply_group_offloading(pipeline.transformer, offload_type="block_level", num_blocks_per_group=1, **streams)
    apply_group_offloading(pipeline.text_encoder.model, offload_type="leaf_level", **streams)


def spread(pipeline: Any, offload: str) -> Devices:
    """Spreads one pipeline over all GPUs; raises LoadError where it does not fit."""
    from accelerate import dispatch_model

    memory = {
        number: max(0, torch.cuda.mem_get_info(number)[0] - ACTIVATION_BYTES)
        for number in range(torch.cuda.device_count())
    }
    parts = parts_of(pipeline)
    maps = plan(parts, memory)
    check_fits(parts, maps, memory, offload)
    for name, module in parts.items():
        if set(maps[name]) == {""}:
            module.to(_device(maps[name][""]))
        else:
            dispatch_model(module, maps[name], main_device=_main(maps[name]))
    bare_within_blocks(pipeline.transformer, maps["transformer"])
    return Devices(*(_device(_main(maps[name])) for name in ("transformer", "text_encoder", "vae")))


def bare_within_blocks(transformer: Any, devices: DeviceMap) -> None:
    """Takes the hooks off the layers of each block that lies on a GPU.

    The block's own hook brings what goes in, so that theirs find nothing to do; and they cannot be compiled.
    """
    from accelerate.hooks import remove_hook_from_submodules

    for number, block in enumerate(transformer.transformer_blocks):
        if isinstance(devices.get(f"transformer_blocks.{number}"), int):
            for child in block.children():
                remove_hook_from_submodules(child)


def parts_of(pipeline: Any) -> dict[str, torch.nn.Module]:
    """In the order in which they are placed. The text encoder's vocabulary head is left out where no captions are."""
    encoder = pipeline.text_encoder if type(pipeline).__name__ == WRITES_CAPTIONS else pipeline.text_encoder.model
    return {"transformer": pipeline.transformer, "text_encoder": encoder, "vae": pipeline.vae}


def plan(parts: Mapping[str, torch.nn.Module], memory: Mapping[int, int]) -> dict[str, DeviceMap]:
    """A device map of every part, in whole blocks, GPU after GPU; "cpu" for what none of them has room for.

    Works on modules of any device, "meta" too. The layers run one after the other, so that evenly filled cards would be
    no faster than a full one and an empty one: fewest crossings are best.
    """
    left = dict(memory)
    maps = {}
    for name, module in parts.items():
        maps[name] = _map(module, left)
        for device, size in bytes_by_device(module, maps[name]).items():
            if isinstance(device, int):
                left[device] -= size
    return maps


def _map(module: torch.nn.Module, left: Mapping[int, int]) -> DeviceMap:
    from accelerate import infer_auto_device_map

    size = bytes_of(module)
    roomy = [number for number, room in left.items() if room >= size]
    if roomy:  # whole on the card with most room, where the activations have it too
        return {"": max(roomy, key=lambda number: left[number])}
    memory: dict[int | str, int] = {**dict(left.items()), "cpu": size + GIGABYTE}
    return dict(infer_auto_device_map(module, max_memory=memory, no_split_module_classes=list(WHOLE)))


def check_fits(
    parts: Mapping[str, torch.nn.Module], maps: Mapping[str, DeviceMap], memory: Mapping[int, int], offload: str
) -> None:
    """Raises LoadError with the memory that is missing, unless `offload` lets weights wait in main memory."""
    if type(parts["transformer"]).__name__ == UNDIVIDED and set(maps["transformer"]) != {""}:
        raise LoadError(
            f"DEVICE_MAP=balanced: the transformer of Qwen-Image-2.1 has to fit on one GPU, its weights take "
            f"{bytes_of(parts['transformer']) / GIGABYTE:.1f} GB; the GPUs have room for "
            f"{', '.join(f'{size / GIGABYTE:.1f}' for size in memory.values())} GB beside activations"
        )
    missing = sum(
        size
        for name, module in parts.items()
        for device, size in bytes_by_device(module, maps[name]).items()
        if not isinstance(device, int)
    )
    if missing and offload == "none":
        whole = sum(map(bytes_of, parts.values()))
        raise LoadError(
            f"DEVICE_MAP=balanced: {missing / GIGABYTE:.1f} GB more GPU memory is needed: the weights take "
            f"{whole / GIGABYTE:.1f} GB, beside activations {len(memory)} GPUs have room for "
            f"{sum(memory.values()) / GIGABYTE:.1f} GB; use more GPUs, QUANTIZATION=int8 or OFFLOAD=group"
        )


def bytes_of(module: torch.nn.Module) -> int:
    tensors = (*module.parameters(), *module.buffers())
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def bytes_by_device(module: torch.nn.Module, devices: DeviceMap) -> dict[int | str, int]:
    sizes: dict[int | str, int] = {}
    for name, device in devices.items():
        try:
            part: Any = module.get_submodule(name)
            size = bytes_of(part)
        except AttributeError:  # a parameter that is mapped by itself
            part = module.get_parameter(name)
            size = part.numel() * part.element_size()
        sizes[device] = sizes.get(device, 0) + size
    return sizes


def _main(devices: DeviceMap) -> int | str:
    """The first GPU of a map: what goes in and comes out lies there."""
    return min((device for device in devices.values() if isinstance(device, int)), default="cpu")


def _device(where: int | str) -> torch.device:
    return torch.device("cuda", where) if isinstance(where, int) else torch.device(where)
