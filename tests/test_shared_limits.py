"""Limits that the shim and the model share: neither imports the other, so each says them; here they are compared."""

from __future__ import annotations

import json
import re

import pytest
from qwen_edit import hints, request, settings
from qwen_edit.conditioning import texts
from qwen_edit.families import asked, family, quality
from qwen_edit.forward import lora_asked
from qwen_edit.loading import identity
from qwen_edit.pictures import images, regions

from shim import context, health, limits
from shim.app import EDIT_PATHS
from shim.openapi.description import describe
from shim.reading import fields
from shim.reading.kinds import Quality, Steps
from shim.reading.pictures import FORMATS
from shim.settings import Settings
from shim.settings_grammar import SettingsError
from tests.kit.servers import PROJECT

MODEL = settings.Settings.from_environment({}).limits
SHIM = Settings.from_environment({})
DESCRIPTION = json.dumps(describe(SHIM, EDIT_PATHS))


@pytest.mark.parametrize(
    ("shim", "model"),
    [
        (limits.MAX_PROMPT_CHARS, request.MAX_PROMPT_CHARACTERS),
        (limits.MAX_LORA_CHARS, lora_asked.MAX_CHARACTERS),
        (limits.MIN_SIDE, settings.MIN_SIDE),
        (limits.SOURCE_SIZE, family.SOURCE),
        (limits.MAX_ASPECT, asked.MAX_ASPECT),
        (limits.MAX_CFG_SCALE, request.MAX_TRUE_CFG_SCALE),
        (limits.MAX_SEED, settings.MAX_SEED),
        (FORMATS, images.FORMATS),
        (SHIM.max_input_pixels, MODEL.input_pixels),
        (SHIM.max_references, MODEL.references),
        (SHIM.max_side, MODEL.side),
        (SHIM.max_pixels, MODEL.pixels),
        (SHIM.max_steps, MODEL.steps),
    ],
    ids=[
        *("characters of a prompt", "characters of adapters", "shortest side", "source", "aspect ratio", "guidance"),
        *("largest seed", "formats", "input pixels", "references", "longest side", "output pixels", "steps"),
    ],
)
def test_a_limit_is_the_same_in_the_shim_and_in_the_model(shim: object, model: object) -> None:
    assert shim == model


def test_the_version_is_the_same_in_the_shim_and_in_the_model() -> None:
    assert identity.VERSION == health.VERSION


def test_the_fewest_steps_that_the_shim_passes_on_are_the_models() -> None:
    assert isinstance(fields.STEPS.kind, Steps)
    assert fields.STEPS.kind.low == request.MIN_STEPS


def test_the_words_for_quality_that_the_shim_passes_on_are_the_models() -> None:
    assert isinstance(fields.QUALITY.kind, Quality)
    assert fields.QUALITY.kind.allowed == (settings.AUTO, *quality.QUALITIES)


def test_the_most_outputs_that_the_shim_may_be_set_to_are_the_siblings_that_the_model_takes() -> None:
    name, most = "MAX_OUTPUTS_PER_REQUEST", hints.MAX_SIBLINGS
    assert Settings.from_environment({name: f"{most}"}).max_outputs_per_request == most
    with pytest.raises(SettingsError):
        Settings.from_environment({name: f"{most + 1}"})


def test_a_request_id_that_the_shim_takes_is_one_that_the_model_logs_whole() -> None:
    assert context.REQUEST_ID.fullmatch("x" * request.MAX_REQUEST_ID)
    assert not context.REQUEST_ID.fullmatch("x" * (request.MAX_REQUEST_ID + 1))


def test_the_page_and_the_description_of_a_mask_say_the_models_threshold() -> None:
    counted = re.findall(r"data\[at\] >= (\d+)", (PROJECT / "shim" / "static" / "strokes.js").read_text())
    said = re.findall(r"alpha is below (\d+)", DESCRIPTION)
    assert [int(threshold) for threshold in counted] == [regions.THRESHOLD]
    assert {int(threshold) for threshold in said} == {regions.THRESHOLD}


def test_the_note_on_a_prompts_length_says_the_models_positions() -> None:
    assert f" {texts.MAX_POSITIONS} text positions" in (fields.PROMPT.note or "")
