"""Where the checkpoint lies, of which family it is, and its own defaults.

Imports nothing heavy, so that a mistyped QWEN_MODEL_DIR is reported before torch has been imported.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwen_edit.families.family import Family
from qwen_edit.families.known import FAMILIES

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


class LoadError(Exception):
    """The checkpoint cannot be served; the message is one line that says what to do."""


@dataclass(frozen=True)
class Checkpoint:
    folder: Path
    family: Family
    serving: dict[str, Any]  # defaults for requests, by name


def find(model_dir: str) -> Checkpoint:
    """The checkpoint that QWEN_MODEL_DIR names, fetched where it is a Hub id; raises LoadError."""
    folder = _folder(model_dir)
    return Checkpoint(folder, _family(folder), _serving(folder))


def _folder(model_dir: str) -> Path:
    if not model_dir:
        raise LoadError("QWEN_MODEL_DIR is not set: set it to a checkpoint folder or a Hub id")
    folder = Path(model_dir).expanduser()
    if folder.exists():
        return folder
    if not HUB_ID.fullmatch(model_dir):
        raise LoadError(f"QWEN_MODEL_DIR={model_dir}: there is no such folder")
    return _download(model_dir)


def _download(hub_id: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.constants import HF_HUB_OFFLINE

    try:
        return Path(snapshot_download(hub_id, local_files_only=HF_HUB_OFFLINE))
    except Exception as error:  # the Hub client raises a dozen kinds, each with its own long text
        where = "in the local cache (HF_HUB_OFFLINE is set)" if HF_HUB_OFFLINE else "there, or the Hub is out of reach"
        kind = type(error).__name__
        raise LoadError(
            f"QWEN_MODEL_DIR={hub_id}: no such folder, and as a Hub id it is not {where} ({kind})"
        ) from None


def _family(folder: Path) -> Family:
    index = folder / "model_index.json"
    if not index.is_file():
        raise LoadError(f"QWEN_MODEL_DIR={folder}: no model_index.json there; a diffusers checkpoint folder is needed")
    try:
        name = json.loads(index.read_text())["_class_name"]
    except (ValueError, KeyError, TypeError):
        raise LoadError(f"{index}: not a diffusers model_index.json") from None
    if not isinstance(name, str) or name not in FAMILIES:
        raise LoadError(f"QWEN_MODEL_DIR={folder}: a {name} checkpoint; one of {', '.join(FAMILIES)} is needed")
    return FAMILIES[name]


def _serving(folder: Path) -> dict[str, Any]:
    """The checkpoint's own defaults, in a file `serving.json` beside model_index.json."""
    path = folder / "serving.json"
    if not path.is_file():
        return {}
    try:
        values = json.loads(path.read_text())
    except ValueError:
        raise LoadError(f"{path}: not JSON") from None
    known: dict[str, Any] = {
        "num_inference_steps": int,
        "true_cfg_scale": (int, float),
        "negative_prompt": str,
        "reference_area": int,
        "one_area": bool,
    }
    for name, value in values.items():
        if name not in known or not isinstance(value, known[name]):
            raise LoadError(f"{path}: {name}={value!r}; the keys are {', '.join(known)}")
    return dict(values)
