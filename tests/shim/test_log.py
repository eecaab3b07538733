from __future__ import annotations

import json
import logging

import pytest

from shim.log import TEXT_FORMAT, TIME_FORMAT, JsonFormatter, logged_prompt, one_line


def record(message: str, **extra: object) -> logging.LogRecord:
    made = logging.LogRecord("image_edit_server", logging.INFO, __file__, 1, message, (), None)
    made.__dict__.update(extra)
    return made


@pytest.mark.parametrize(
    ("prompt", "logged"),
    [
        ("a beautiful landscape", "'a beautiful landscape'"),
        ("给天空加上彩虹", "'给天空加上彩虹'"),
        ("x" * 51, f"'{'x' * 50}'"),
        ('it\'s "so"', r"""'it\'s \"so\"'"""),
        ("a\\b", r"'a\\b'"),
        ("one\ntwo\r\x1b[31m\x00", r"'one\ntwo\r\x1b[31m\x00'"),
        ("left\u2028right\u202e", r"'left\u2028right\u202e'"),
    ],
)
def test_the_prompt_stays_on_one_line_inside_its_quotes(prompt: str, logged: str) -> None:
    assert logged_prompt(prompt, show=True) == logged


def test_a_hidden_prompt_is_its_length() -> None:
    assert logged_prompt("a secret", show=False) == "<8 characters>"


def test_one_line_leaves_quotes_alone() -> None:
    assert one_line("it's\n") == r"it's\n"


def test_the_text_format_is_the_classic_one() -> None:
    line = logging.Formatter(TEXT_FORMAT, TIME_FORMAT).format(record("Model loaded successfully"))
    date, time, rest = line.split(" ", 2)
    assert rest == "- image_edit_server - INFO - Model loaded successfully"
    assert (len(date), len(time)) == (10, 8)


def test_the_json_format_is_one_object_a_line_with_the_fields() -> None:
    fields = {"request_id": "r1", "dialect": "openai", "status": 200, "timings": [{"denoise": 1.5}]}
    line = JsonFormatter().format(record("done\nnow", fields=fields))
    assert "\n" not in line
    parsed = json.loads(line)
    assert (parsed["level"], parsed["logger"], parsed["message"]) == ("INFO", "image_edit_server", "done\nnow")
    assert {key: parsed[key] for key in fields} == fields
