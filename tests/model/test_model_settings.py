"""The model's settings: cast, defaulted, refused by name."""

from __future__ import annotations

import pytest
from qwen_edit.settings import Limits, Settings
from qwen_edit.settings_grammar import SettingsError


def test_everything_has_a_default() -> None:
    settings = Settings.from_environment({})
    assert settings.limits == Limits()
    assert settings.default_steps is None
    assert settings.cache_bytes(on_gpu=True) == 2048 * 2**20
    assert settings.cache_bytes(on_gpu=False) == 256 * 2**20
    assert settings.torch_threads >= 1


def test_the_environment_wins_over_the_parameters_of_config_pbtxt() -> None:
    parameters = {"MAX_JOBS": "3", "MAX_STEPS": "7"}
    settings = Settings.from_environment({"MAX_JOBS": "5", "MAX_STEPS": " "}, parameters)
    assert (settings.max_jobs, settings.limits.steps) == (5, 7)


def test_a_negative_prompt_may_be_a_space() -> None:
    assert Settings.from_environment({"DEFAULT_NEGATIVE_PROMPT": "blurry"}).default_negative_prompt == "blurry"
    assert Settings.from_environment({}, {"DEFAULT_NEGATIVE_PROMPT": " "}).default_negative_prompt == " "
    assert Settings.from_environment({"DEFAULT_NEGATIVE_PROMPT": " "}).default_negative_prompt == " "


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("MAX_JOBS", "0", "a whole number from 1 to 100000"),
        ("MAX_JOBS", "many", "a whole number"),
        ("MAX_STEPS", "1", "from 2 to 1000"),
        ("DEFAULT_TRUE_CFG_SCALE", "nan", "a number from 0 to 20"),
        ("DEFAULT_TRUE_CFG_SCALE", "a", "a number from 0 to 20"),
        ("VL_POSITIONS", "2d", "one of mrope, diffusers"),
        ("DEVICE_MAP", "auto", "one of cuda, balanced, cpu"),
        ("LOG_LEVEL", "loud", "one of DEBUG, INFO"),
        ("REFERENCE_AREA", "100", "from 4096"),
    ],
)
def test_a_wrong_value_is_refused_with_its_name_and_what_is_allowed(name: str, value: str, allowed: str) -> None:
    with pytest.raises(SettingsError, match=f"{name}='{value}': .*{allowed}"):
        Settings.from_environment({name: value})
