"""The keys that clients may send: API_KEY, and those of a file, which is read again when it changes."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from pathlib import Path

from shim.log import logger
from shim.settings_grammar import SettingsError

LINE = re.compile(r"(?P<name>[A-Za-z0-9._-]{1,64}):[ \t]*(?P<key>[!-~]+)")
ALLOWED = "a line is NAME: KEY, the name of letters, digits, '.', '_' and '-', the key of visible ASCII without spaces"
NAME_OF_API_KEY = "API_KEY"
LOOK_SECONDS = 1.0  # between two looks at the file

NamedKey = tuple[str, str]


class Keys:
    """Raises SettingsError where the file cannot be used at the start; later, the last good ones stay."""

    def __init__(self, api_key: str, file: str = "", clock: Callable[[], float] = time.monotonic) -> None:
        self._own: list[NamedKey] = [(NAME_OF_API_KEY, api_key)] if api_key else []
        self._path = Path(file) if file else None
        self._clock = clock
        self._of_file: list[NamedKey] = []
        self._seen: tuple[int, int, int] | None = None
        self._look_at = 0.0
        self._complained_of = ""
        if self._path:
            self._read(self._path)

    def accepted(self) -> list[NamedKey]:
        """Names and keys; none where everybody may."""
        if self._path and self._clock() >= self._look_at:
            self._look_again(self._path)
        return self._own + self._of_file

    def _look_again(self, path: Path) -> None:
        try:
            self._read(path)
            self._complained_of = ""
        except SettingsError as error:
            if str(error) != self._complained_of:
                self._complained_of = str(error)
                logger.error("%s; the keys stay as they were", error)

    def _read(self, path: Path) -> None:
        """A mounted Secret changes by a link to another folder, so its file is another one then."""
        self._look_at = self._clock() + LOOK_SECONDS
        try:
            status = os.stat(path)
            seen = status.st_ino, status.st_mtime_ns, status.st_size
            if seen == self._seen:
                return
            text = path.read_text("ascii")
        except OSError as error:
            raise SettingsError(f"API_KEY_FILE={path}: {error.strerror}") from None
        except UnicodeDecodeError:
            raise SettingsError(f"API_KEY_FILE={path}: not ASCII; {ALLOWED}") from None
        before, self._of_file = self._of_file, parse(text, path)
        if self._seen and before != self._of_file:
            names = ", ".join(sorted({name for name, _ in self._of_file}))
            logger.info("API_KEY_FILE=%s was read again; keys of: %s", path, names)
        self._seen = seen


def parse(text: str, path: Path) -> list[NamedKey]:
    """A name may have several keys, as while it gets another; raises SettingsError, which tells no key."""
    keys: list[NamedKey] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not (line := line.strip()) or line.startswith("#"):
            continue
        match = LINE.fullmatch(line)
        if not match:
            raise SettingsError(f"API_KEY_FILE={path}: line {number} is not one: {ALLOWED}")
        for name, key in keys:
            if key == match["key"] and name != match["name"]:
                raise SettingsError(f"API_KEY_FILE={path}: line {number} has the key of {name} for {match['name']}")
        keys.append((match["name"], match["key"]))
    if not keys:
        raise SettingsError(f"API_KEY_FILE={path}: no key in it; {ALLOWED}")
    return keys
