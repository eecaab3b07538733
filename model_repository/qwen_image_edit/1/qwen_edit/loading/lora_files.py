"""The folder of LoRA files that requests may name: regular files that lie in it, and no larger than they may be."""

from __future__ import annotations

import hashlib
import json
import math
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import safetensors
import safetensors.torch
import torch

from qwen_edit.errors import BadRequest
from qwen_edit.forward.lora_asked import NAME

SUFFIX = ".safetensors"
MAX_RANK = 512
MAX_TENSORS = 20_000  # ten times as many as an adapter of every layer has
DTYPES = ("F64", "F32", "F16", "BF16")
LENGTH_BYTES = 8  # in front of a header
MAX_HEADER_BYTES = 100_000_000  # safetensors' own limit
METADATA = "lora_adapter_metadata"  # where diffusers writes peft's configuration

Version = tuple[int, ...]  # of a file: another one where its content was replaced


@dataclass(frozen=True)
class LoraFile:
    digest: str  # SHA-256
    tensors: dict[str, torch.Tensor]
    metadata: Mapping[str, Any]  # peft's configuration, where the file has it


class LoraFiles:
    """For several threads. Looked into anew each time: files may come and go."""

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder).expanduser()
        self._digests: dict[str, tuple[Version, str]] = {}

    def names(self) -> list[str]:
        try:
            with os.scandir(self._folder) as entries:
                names = [entry.name.removesuffix(SUFFIX) for entry in entries if _is_listed(entry)]
        except OSError:
            return []
        return sorted(filter(NAME.fullmatch, names))

    def digest(self, name: str) -> str | None:
        """Of the file as it is now, where it was read before; raises BadRequest where there is none."""
        with self._opened(name) as file:
            version, digest = self._digests.get(name, ((), ""))
            return digest if version == _version(file) else None

    def read(self, name: str, *, itemsize: int, max_bytes: int) -> LoraFile:
        """Its tensors in main memory, of which elements of this size fit; raises BadRequest."""
        with self._opened(name) as file:
            version = _version(file)
            metadata = _checked_header(name, file, itemsize, max_bytes)
            data = file.read(version[-1] + 1)  # a file that grows is not read to its end
            if _version(file) != version or len(data) != version[-1]:
                raise BadRequest("lora", f"{name!r}: its file is being written: send the edit again later")
        file_digest = hashlib.sha256(data).hexdigest()
        try:
            tensors = safetensors.torch.load(data)
        except (safetensors.SafetensorError, ValueError):
            raise _damaged(name) from None
        self._digests[name] = version, file_digest
        return LoraFile(file_digest, tensors, metadata)

    @contextmanager
    def _opened(self, name: str) -> Iterator[BinaryIO]:
        """The name is checked where requests are read. No link is followed, and no device or pipe waited for."""
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            descriptor = os.open(self._folder / f"{name}{SUFFIX}", flags)
        except OSError:
            raise self._unknown(name) from None
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise self._unknown(name)
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                yield file
        finally:
            os.close(descriptor)

    def _unknown(self, name: str) -> BadRequest:
        names = self.names()
        known = f"{', '.join(names[:20])}{', …' if len(names) > 20 else ''}" if names else "there are none"
        return BadRequest("lora", f"{name!r}: no adapter of this server: {known}")


def _is_listed(entry: os.DirEntry[str]) -> bool:
    return entry.name.endswith(SUFFIX) and entry.is_file(follow_symlinks=False)


def _version(file: BinaryIO) -> Version:
    found = os.fstat(file.fileno())
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size


def _checked_header(name: str, file: BinaryIO, itemsize: int, max_bytes: int) -> Mapping[str, Any]:
    """Before its tensors are read. Raises BadRequest for a file that is damaged or no LoRA, or too large."""
    try:
        with _header_alone(file) as path, safetensors.safe_open(path, "np") as header:
            slices = {key: header.get_slice(key) for key in header.keys()}  # noqa: SIM118  it is no mapping
            shapes = {key: (each.get_dtype(), tuple(each.get_shape())) for key, each in slices.items()}
            metadata = json.loads((header.metadata() or {}).get(METADATA, "{}"))
    except (safetensors.SafetensorError, OSError, ValueError, RecursionError):
        raise _damaged(name) from None
    if not isinstance(metadata, dict):
        raise _damaged(name)
    if len(shapes) > MAX_TENSORS:
        raise BadRequest("lora", f"{name!r}: {len(shapes)} tensors: at most {MAX_TENSORS} are allowed")
    for key, (dtype, shape) in shapes.items():
        if dtype not in DTYPES:
            raise BadRequest("lora", f"{name!r}: {key[:100]} is {dtype}: {', '.join(DTYPES)} are allowed")
        if len(shape) == 2 and min(shape) > MAX_RANK:
            raise BadRequest("lora", f"{name!r}: {key[:100]} has rank {min(shape)}: at most {MAX_RANK} is allowed")
    check_size(repr(name), sum(math.prod(shape) * itemsize for _, shape in shapes.values() if shape), max_bytes)
    return metadata


@contextmanager
def _header_alone(file: BinaryIO) -> Iterator[str]:
    """A path to what has the file's header and size, and holes for its tensors; `file` is at its beginning after it.

    safetensors maps what it opens, and who cuts a file short that is mapped ends the process: `cp` over it does.
    """
    descriptor = os.memfd_create("header", os.MFD_CLOEXEC)
    try:
        start = file.read(LENGTH_BYTES)
        header = file.read(min(int.from_bytes(start, "little"), MAX_HEADER_BYTES))
        file.seek(0)
        with os.fdopen(descriptor, "wb", closefd=False) as copy:
            copy.write(start + header)
        os.ftruncate(descriptor, max(os.fstat(file.fileno()).st_size, len(start + header)))
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def check_size(what: str, size: int, max_bytes: int) -> None:
    if size > max_bytes:
        megabytes = f"{size / 2**20:.3g} MB: at most {max_bytes / 2**20:.3g}"
        raise BadRequest("lora", f"{what}: {megabytes} are allowed (LORA_CACHE_MB)")


def _damaged(name: str) -> BadRequest:
    return BadRequest("lora", f"{name!r}: its file is no safetensors file, or damaged")
