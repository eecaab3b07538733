"""What the model says that it can: asked for now and then, and passed on."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from starlette.testclient import TestClient

from shim.app import create_app
from shim.running.abilities import Abilities, Told, abilities_of
from shim.settings import Settings
from tests.kit.scripted import ScriptedTriton

EDITS_AND_GENERATES = Abilities(max_references=10, generations=True, transparent_background=True)


def test_the_models_words_are_understood_and_others_are_not() -> None:
    assert abilities_of('{"references": [0, 10], "transparent": true, "more": 1}') == EDITS_AND_GENERATES
    assert not abilities_of('{"references": [1, 3], "transparent": false}').generations
    adapted = abilities_of('{"references": [1, 3], "transparent": false, "lora": ["ink", "oil"]}')
    assert adapted.lora == ("ink", "oil")
    for other in ("", "{}", '{"references": 3}', "[]"):
        with pytest.raises((ValueError, KeyError, TypeError)):
            abilities_of(other)


def test_the_model_is_asked_once_and_what_it_said_holds_while_it_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[Abilities | None] = [None, EDITS_AND_GENERATES, None]
    now = [100.0]
    monkeypatch.setattr("shim.running.abilities.time.monotonic", lambda: now[0])

    async def ask() -> Abilities | None:
        return answers.pop(0)

    async def heard() -> list[Abilities | None]:
        told, found = Told(ask), []
        for later in (0, 0.5, 0.6, 5, 6, 0.5):
            now[0] += later
            found.append(await told.abilities())
            lately.append(told.known)
        return found

    lately: list[Abilities | None] = []
    assert asyncio.run(heard()) == [None, None, *[EDITS_AND_GENERATES] * 4]
    assert lately == [None, None, *[EDITS_AND_GENERATES] * 2, None, None], "another checkpoint may be there by now"
    assert not answers


@pytest.mark.parametrize("known", [None, EDITS_AND_GENERATES], ids=["away", "there"])
@pytest.mark.parametrize(("setting", "most"), [(None, 16), (4, 4)])
def test_models_and_description_tell_what_is_known(
    monkeypatch: pytest.MonkeyPatch, known: Abilities | None, setting: int | None, most: int
) -> None:
    triton = ScriptedTriton()
    triton.abilities = known
    monkeypatch.setattr("shim.app.Triton", lambda url, health_url, most_bytes: triton)
    with TestClient(create_app(Settings(max_references=setting))) as client:
        (model,) = client.get("/v1/models").json()["data"]
        paths = client.get("/openapi.json").json()["paths"]
    form = paths["/v1/images/edits"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    available = paths["/v1/images/generations"]["post"].get("x-available")
    if known:
        assert (model["max_references"], model["generations"], model["transparent_background"]) == (10, True, True)
        assert (form["properties"]["image"]["maxItems"], available) == (min(10, most), True)
    else:
        assert "max_references" not in model
        assert (form["properties"]["image"]["maxItems"], available) == (most, None)


def test_each_adapter_is_a_model_with_the_served_ones_name_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    triton = ScriptedTriton()
    triton.abilities = replace(EDITS_AND_GENERATES, lora=("ink", "oil"))
    monkeypatch.setattr("shim.app.Triton", lambda url, health_url, most_bytes: triton)
    with TestClient(create_app(Settings(model_id="base"))) as client:
        models = client.get("/v1/models").json()["data"]
        assert [model["id"] for model in models] == ["base", "base:ink", "base:oil"]
        assert models[0]["lora"] == ["ink", "oil"]
        assert client.get("/v1/models/base:oil").json() == models[2]
        missing = client.get("/v1/models/base:red")
    assert missing.status_code == 404
    assert "'base', 'base:ink', 'base:oil'" in missing.json()["error"]["message"]
