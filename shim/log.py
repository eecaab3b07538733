"""The log: the classic service's lines as text, or one JSON object a line."""

from __future__ import annotations

import json
import logging
import sys
import time

from shim.settings import Settings

logger = logging.getLogger("image_edit_server")

TEXT_FORMAT = "%(asctime)s - %(name)s - %(levelname)s - %(message)s"
TIME_FORMAT = "%Y-%m-%d %H:%M:%S"
PROMPT_CHARS = 50
QUOTES = "'\"\\"


class JsonFormatter(logging.Formatter):
    """Fields come from `extra={"fields": {…}}`."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def configure_logging(settings: Settings) -> None:
    handler = logging.StreamHandler(sys.stdout)
    json_lines = settings.log_format == "json"
    handler.setFormatter(JsonFormatter() if json_lines else logging.Formatter(TEXT_FORMAT, TIME_FORMAT))
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # malformed bodies are answered, and logged by us
    logging.basicConfig(level=settings.log_level, handlers=[handler], force=True)


def logged_prompt(prompt: str, show: bool) -> str:
    """The prompt's start on one line, in quotes that nothing in it can end; or only its length."""
    if not show:
        return f"<{len(prompt)} characters>"
    return f"'{one_line(prompt[:PROMPT_CHARS], escape=QUOTES)}'"


def one_line(text: str, escape: str = "") -> str:
    return "".join(_escaped(character, escape) for character in text)


def _escaped(character: str, escape: str) -> str:
    if character in escape:
        return f"\\{character}"
    return character if character.isprintable() else character.encode("unicode_escape").decode()
