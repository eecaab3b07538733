from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest

from shim.settings import Settings
from shim.settings_grammar import SettingsError, settings_of


def test_defaults_are_the_contracts() -> None:
    settings = Settings.from_environment({})
    assert settings.api_key == ""
    assert (settings.host, settings.port) == ("127.0.0.1", 8000)
    assert settings.triton_url == "http://127.0.0.1:8010"
    assert settings.max_body_bytes == 104_857_600
    assert settings.max_input_pixels == 2**25
    assert settings.max_references is None
    assert settings.max_side == 2048
    assert settings.max_pixels == 2_359_296
    assert settings.max_steps == 100
    assert settings.max_outputs_per_request == 16
    assert settings.max_jobs_per_request == 4
    assert settings.request_timeout_seconds == 290
    assert settings.drains_for == settings.request_timeout_seconds + 10
    assert settings.allowed_image_hosts == ()
    assert settings.cors_origins == ()
    assert (settings.log_level, settings.log_prompts, settings.log_format) == ("INFO", True, "text")


def test_empty_variables_count_as_unset() -> None:
    variables = [declared.name for declared in settings_of(Settings)]
    assert Settings.from_environment(dict.fromkeys(variables, "")) == Settings()


@pytest.mark.parametrize(
    ("variable", "value", "attribute", "expected"),
    [
        ("API_KEY", " spaces count ", "api_key", " spaces count "),
        ("PORT", " 80 ", "port", 80),
        ("TRITON_URL", "https://triton.example:443/", "triton_url", "https://triton.example:443"),
        ("MAX_BODY_BYTES", "1", "max_body_bytes", 1),
        ("REQUEST_TIMEOUT_SECONDS", "1.5", "request_timeout_seconds", 1.5),
        ("SEGMENT_STEPS", "0", "segment_steps", 0),
        ("DRAIN_SECONDS", "0", "drain_seconds", 0.0),
        ("CORS_ORIGINS", "https://a.example, http://b:3000,", "cors_origins", ("https://a.example", "http://b:3000")),
        ("CORS_ORIGINS", "*", "cors_origins", ("*",)),
        (
            "ALLOWED_IMAGE_HOSTS",
            "A.example, b:3000, [::1]:80,",
            "allowed_image_hosts",
            ("a.example", "b:3000", "[::1]:80"),
        ),
        ("ALLOWED_HOSTS", "A.example, gpu_box,", "allowed_hosts", ("a.example", "gpu_box")),
        ("LOG_LEVEL", "debug", "log_level", "DEBUG"),
        ("LOG_PROMPTS", "False", "log_prompts", False),
        ("LOG_PROMPTS", "on", "log_prompts", True),
        ("LOG_FORMAT", "JSON", "log_format", "json"),
    ],
)
def test_a_variable_is_cast(variable: str, value: str, attribute: str, expected: object) -> None:
    assert getattr(Settings.from_environment({variable: value}), attribute) == expected


@pytest.mark.parametrize(
    ("variable", "value", "allowed"),
    [
        ("PORT", "0", "a whole number from 1 to 65535 is allowed"),
        ("PORT", "80.0", "a whole number from 1 to 65535 is allowed"),
        ("PORT", "８０", "a whole number from 1 to 65535 is allowed"),
        ("MAX_STEPS", "1", "a whole number from 2 to 1000 is allowed"),
        ("MAX_BODY_BYTES", "100MB", "a whole number from 1 to 1099511627776 is allowed"),
        ("MAX_BODY_BYTES", "9" * 5000, "a whole number from 1 to 1099511627776 is allowed"),
        ("REQUEST_TIMEOUT_SECONDS", "nan", "a number from 1 to 86400 is allowed"),
        ("REQUEST_TIMEOUT_SECONDS", "1e3", "a number from 1 to 86400 is allowed"),
        ("LOG_PROMPTS", "nope", "one of 1, true, yes, on, 0, false, no, off is allowed"),
        ("LOG_LEVEL", "LOUD", "one of DEBUG, INFO, WARNING, ERROR, CRITICAL is allowed"),
        ("LOG_FORMAT", "xml", "one of text, json is allowed"),
        ("TRITON_URL", "127.0.0.1:8010", "http://HOST:PORT or https://HOST:PORT is allowed"),
        ("ALLOWED_HOSTS", "a.example:8000", "a comma list of host names without ports is allowed"),
        ("ALLOWED_HOSTS", "https://a.example", "a comma list of host names without ports is allowed"),
        ("ALLOWED_HOSTS", ".a.example", "a comma list of host names without ports is allowed"),
        ("ALLOWED_HOSTS", "*", "a comma list of host names without ports is allowed"),
        ("ALLOWED_IMAGE_HOSTS", "https://a.example", "a comma list of HOST or HOST:PORT is allowed"),
        ("ALLOWED_IMAGE_HOSTS", "*", "a comma list of HOST or HOST:PORT is allowed"),
        ("CORS_ORIGINS", "example.org", "* or a comma list of origins such as https://example.org is allowed"),
        ("CORS_ORIGINS", "https://a.example/", "* or a comma list of origins such as https://example.org is allowed"),
    ],
)
def test_a_bad_value_is_an_error_that_names_the_variable_the_value_and_what_is_allowed(
    variable: str, value: str, allowed: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.from_environment({variable: value})
    assert str(caught.value) == f"{variable}={value!r}: {allowed}"


@pytest.mark.parametrize(
    ("environ", "served"),
    [
        ({}, "qwen-image-edit"),
        ({"QWEN_MODEL_DIR": "/mnt/models/Qwen-Image-Edit-2511/"}, "Qwen-Image-Edit-2511"),
        ({"QWEN_MODEL_DIR": "Qwen/Qwen-Image-Edit"}, "Qwen-Image-Edit"),
        ({"QWEN_MODEL_DIR": "/mnt/models", "MODEL_ID": "ours"}, "ours"),
    ],
    ids=["nothing", "folder", "hub id", "MODEL_ID wins"],
)
def test_the_served_models_name(environ: dict[str, str], served: str) -> None:
    assert Settings.from_environment(environ).served_model == served


def test_the_key_stays_out_of_the_representation() -> None:
    assert "hunter2" not in repr(Settings.from_environment({"API_KEY": "hunter2"}))


def test_settings_do_not_change() -> None:
    with pytest.raises(FrozenInstanceError):
        Settings().port = 1  # type: ignore[misc]


def test_every_variable_is_declared_once() -> None:
    variables = [declared.name for declared in settings_of(Settings)]
    assert len(variables) == len(set(variables))
