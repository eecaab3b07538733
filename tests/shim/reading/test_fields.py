from __future__ import annotations

import pytest

from shim.errors import InvalidInput
from shim.openapi.description import describe
from shim.reading.fields import FIELDS, SEED, STEPS, TRUE_CFG_SCALE, UNSUPPORTED, Given, N, markdown_rows
from shim.settings import Settings


def given(**texts: str) -> Given:
    return Given(texts, Settings(max_steps=100))


def test_a_field_left_out_or_blank_has_its_default() -> None:
    assert given(seed="  ")[SEED] is None
    assert given(seed="  ")[N] == 1


def test_the_spelling_is_the_clients() -> None:
    fields = given(steps="900")
    assert fields.spelling(STEPS) == "steps"
    assert fields.spelling(TRUE_CFG_SCALE) == "true_cfg_scale"
    with pytest.raises(InvalidInput, match=r"^steps must be an integer from 2 to 100, got '900'$"):
        fields[STEPS]


def test_no_name_is_two_fields() -> None:
    names = [name for field in FIELDS for name in field.spellings]
    assert len(names) == len({*names, *UNSUPPORTED}) - len(UNSUPPORTED)


def test_the_readmes_rows_name_every_field_of_the_form_once() -> None:
    operation = describe(Settings(), ["/edits"])["paths"]["/edits"]["post"]
    properties = operation["requestBody"]["content"]["multipart/form-data"]["schema"]["properties"]
    names = [name for cell, _, _ in markdown_rows() for name in cell.replace("`", "").split(", ")]
    assert sorted(name for name in names if not name.endswith("[]")) == sorted(properties)


def test_the_documents_rows_tell_bounds_by_the_settings_names() -> None:
    rows = {cell: (values, default) for cell, values, default in markdown_rows()}
    assert rows["`num_inference_steps`, `steps`, `sampling_steps`"] == ("2 to `MAX_STEPS`", "the server's")
    assert rows["`n`"] == ("1 to 10; at most `MAX_OUTPUTS_PER_REQUEST` outputs in all", "1")
    assert rows["`size`"] == (
        "`WIDTHxHEIGHT`, 64 to `MAX_SIDE` a side, at most `MAX_PIXELS`; `auto` or `source`",
        "classic 1024x1024, OpenAI or with a mask `auto`",
    )
    assert rows["`output_format`"] == ("`png`, `jpeg`, `webp`", "`png`")
    assert rows["`stream`"] == ("true or false", "false")
