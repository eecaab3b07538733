"""Keys of a file: what is read, when it is read again, and what becomes of a file that cannot be used."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from shim.guards.keys import LOOK_SECONDS, Keys
from shim.settings_grammar import SettingsError

Serve = Callable[..., TestClient]


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.write_text("# two applications\n\nweb: one-key\n  batch:other:key \nweb: a-second\n")
    return path


def replace(path: Path, text: str) -> None:
    """As a Secret's mount does: by another file."""
    other = path.with_name("other")
    other.write_text(text)
    os.replace(other, path)


def test_names_have_keys_and_api_key_is_one_of_its_own(file: Path) -> None:
    of_file = [("web", "one-key"), ("batch", "other:key"), ("web", "a-second")]
    assert Keys("", str(file)).accepted() == of_file
    assert Keys("any bytes at all: ü", str(file)).accepted() == [("API_KEY", "any bytes at all: ü"), *of_file]
    assert Keys("").accepted() == []


def test_a_key_is_changed_without_a_moment_in_which_neither_works(file: Path) -> None:
    clock = Clock()
    keys = Keys("", str(file), clock)
    for text in ("web: old\n", "web: old\nweb: new\n", "web: new\n"):
        replace(file, text)
        clock.now += LOOK_SECONDS
        assert [f"{name}: {key}\n" for name, key in keys.accepted()] == text.splitlines(keepends=True)


@pytest.mark.parametrize("text", ["web\n", "", "web: a key\n", "web: schlüssel\n", None], ids=repr)
def test_a_file_that_goes_bad_changes_nothing_and_is_told_once(
    file: Path, text: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    keys = Keys("", str(file), clock)
    before = keys.accepted()
    if text is None:
        file.unlink()
    else:
        replace(file, text)
    for _ in range(3):
        clock.now += LOOK_SECONDS
        assert keys.accepted() == before
    (record,) = caplog.records
    assert record.getMessage().startswith(f"API_KEY_FILE={file}: ")
    assert record.getMessage().endswith("; the keys stay as they were")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("web: one\nno name here\n", "line 2 is not one"),
        ("we b: one\n", "line 1 is not one"),
        ("web: secret\nbatch: secret\n", "line 2 has the key of web for batch"),
        ("# nothing\n", "no key in it"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_at_the_start_without_telling_a_key(
    file: Path, text: str, said: str
) -> None:
    file.write_text(text)
    with pytest.raises(SettingsError, match=said) as refused:
        Keys("", str(file))
    assert "secret" not in str(refused.value)


def test_a_file_that_is_not_there_is_refused_at_the_start() -> None:
    with pytest.raises(SettingsError, match="API_KEY_FILE=/nowhere/keys: No such file"):
        Keys("", "/nowhere/keys")


def test_a_request_is_counted_for_its_keys_name_and_the_key_is_told_nowhere(serve: Serve, file: Path) -> None:
    client = serve(API_KEY_FILE=str(file))
    for key in ("one-key", "other:key", "a-second", "wrong"):
        client.get("/v1/models", headers={"authorization": f"Bearer {key}"})
    told = client.get("/metrics").text
    counted = [
        ("batch", 200, 1.0), ("web", 200, 2.0), ("", 401, 1.0),
    ]  # fmt: skip
    for name, status, count in counted:
        labels = f'dialect="openai",key="{name}",route="/v1/models",status="{status}"'
        assert f"shim_requests_total{{{labels}}} {count}" in told
    assert not any(key in told for key in ("one-key", "other:key", "a-second"))
