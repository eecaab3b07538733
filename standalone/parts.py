"""The settings of every part, read before anything is started: a bad value costs one line, not minutes of loading."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from standalone.errors import LaunchError
from standalone.settings import Settings
from standalone.tritonserver import MODEL_NAME

if TYPE_CHECKING:
    from qwen_edit.settings import Settings as ModelSettings


class Readable(Protocol):
    """A part's Settings."""

    def from_environment(self, environ: Mapping[str, str] = ...) -> object: ...


def checked_settings(*others: Readable) -> Settings:
    """Our own, once those of the model and of `others` have been read as well; raises LaunchError."""
    try:
        settings = Settings.from_environment()
        parts: list[Readable] = [model_settings(settings.model_repository), *others]
        for part in parts:
            part.from_environment()
    except ValueError as error:  # every part has a SettingsError of its own
        raise LaunchError(str(error)) from None
    return settings


def model_settings(repository: Path) -> type[ModelSettings]:
    """The Settings of the model in the repository; reading them needs none of the model's packages."""
    package = repository / MODEL_NAME / "1"
    if not (package / "qwen_edit" / "settings.py").is_file():
        raise LaunchError(f"MODEL_REPOSITORY={str(repository)!r}: a folder with the model {MODEL_NAME} is allowed")
    sys.path.insert(0, str(package))
    settings: type[ModelSettings] = importlib.import_module("qwen_edit.settings").Settings
    return settings
