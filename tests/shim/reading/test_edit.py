from __future__ import annotations

import io
import json
from collections.abc import Mapping
from types import MappingProxyType

import pytest
from starlette.datastructures import UploadFile

from shim.dialect import Dialect, dialect_of_parts
from shim.errors import InvalidInput
from shim.reading.edit import Edit, edit_of
from shim.reading.uploads import Linked, Part
from shim.settings import Settings

SETTINGS = Settings(max_references=3)
BATCH_NAME: dict[Dialect, str] = {"classic": "images", "openai": "image[]"}


def upload() -> UploadFile:
    return UploadFile(io.BytesIO(b"x"), size=1, filename="a.png")


def address(field: str) -> Linked:
    linked = Linked(field, "https://example.org/a.png")
    linked.file.close()
    return linked


def parse(parts: list[Part], settings: Settings = SETTINGS) -> Edit:
    return edit_of(parts, dialect_of_parts(parts, "classic"), settings)


def edit(
    dialect: Dialect = "classic",
    texts: Mapping[str, str] = MappingProxyType({}),
    *,
    images: int = 1,
    settings: Settings = SETTINGS,
    **more: str,
) -> Edit:
    pictures: list[Part] = [(BATCH_NAME[dialect], upload()) for _ in range(images)]
    return parse([("prompt", "p"), *texts.items(), *more.items(), *pictures], settings)


def refusal(
    dialect: Dialect = "classic",
    texts: Mapping[str, str] = MappingProxyType({}),
    *,
    images: int = 1,
    settings: Settings = SETTINGS,
    **more: str,
) -> tuple[str | None, str]:
    with pytest.raises(InvalidInput) as caught:
        edit(dialect, {**texts, **more}, images=images, settings=settings)
    return caught.value.param, caught.value.message


def test_the_classic_defaults() -> None:
    parsed = edit("classic")
    assert parsed.dialect == "classic"
    assert (parsed.prompt, parsed.negative_prompt) == ("p", None)
    assert (parsed.variants, parsed.size) == (1, (1024, 1024))
    assert (parsed.steps, parsed.true_cfg_scale, parsed.mask) == (None, None, None)
    assert (parsed.output_format, parsed.output_compression) == ("png", 100)


@pytest.mark.parametrize(
    ("settings", "side"), [(Settings(max_side=512), 512), (Settings(max_pixels=700 * 700), 700)], ids=["side", "pixels"]
)
def test_the_classic_size_stays_within_the_servers_limits(settings: Settings, side: int) -> None:
    assert edit("classic", settings=settings).size == (side, side)


def test_openai_leaves_the_size_to_the_model() -> None:
    assert edit("openai").size is None


@pytest.mark.parametrize("dialect", ["classic", "openai"])
def test_empty_fields_count_as_not_given(dialect: Dialect) -> None:
    """go-openai always sends `size` and `response_format`, empty when unset."""
    names = ("n", "size", "seed", "steps", "true_cfg_scale", "response_format", "output_format", "stream", "background")
    given, plain = edit(dialect, dict.fromkeys(names, " ")), edit(dialect)
    assert (given.variants, given.size, given.steps) == (plain.variants, plain.size, plain.steps)
    assert (given.true_cfg_scale, given.output_format) == (plain.true_cfg_scale, plain.output_format)


def test_a_batch_is_one_edit_an_image_in_the_documented_order() -> None:
    parsed = edit("classic", images=2, n="3", seed="5")
    first, second = parsed.images
    assert [(job.references, job.seed) for job in parsed.jobs()] == [
        ((first,), 5),
        ((first,), 6),
        ((first,), 7),
        ((second,), 5),
        ((second,), 6),
        ((second,), 7),
    ]
    assert [job.index for job in parsed.jobs()] == [0, 1, 2, 3, 4, 5]


def test_references_are_all_of_one_edit() -> None:
    parsed = edit("openai", images=3, n="2", seed="5")
    assert [(job.references, job.seed) for job in parsed.jobs()] == [(parsed.images, 5), (parsed.images, 6)]


def test_one_image_means_the_same_in_both_dialects() -> None:
    classic, openai = (edit(dialect, n="2", seed="1", size="64x64") for dialect in ("classic", "openai"))
    assert [(len(job.references), job.seed) for job in classic.jobs()] == [
        (len(job.references), job.seed) for job in openai.jobs()
    ]


def test_the_seed_wraps_at_2_to_the_63() -> None:
    assert [job.seed for job in edit(seed=str(2**63 - 1), n="2").jobs()] == [2**63 - 1, 0]


def test_a_random_seed_stays_below_2_to_the_32() -> None:
    seeds = {edit().seed for _ in range(20)}
    assert len(seeds) > 1
    assert all(0 <= seed < 2**32 for seed in seeds)


def test_line_ends_are_normalised_and_the_prompt_is_trimmed() -> None:
    parsed = edit(prompt=" one\r\ntwo\n ", negative_prompt=" a\r\nb ")
    assert parsed.prompt == "one\ntwo"
    assert parsed.negative_prompt == " a\nb "


def test_a_stream_may_have_partial_images() -> None:
    assert (edit().stream, edit().partial_images) == (False, 0)
    parsed = edit(stream="True", partial_images="3")
    assert (parsed.stream, parsed.partial_images) == (True, 3)


def test_a_prompt_may_have_32000_characters() -> None:
    assert len(edit(prompt="画" * 32_000).prompt) == 32_000


def test_n_0_is_not_given_in_the_openai_dialect_only() -> None:
    assert edit("openai", n="0").variants == 1
    assert refusal("classic", n="0") == ("n", "n must be an integer from 1 to 10, got '0'")


@pytest.mark.parametrize(
    ("given", "size"),
    [
        ("64x2048", (64, 2048)),
        ("1536x1536", (1536, 1536)),
        ("100X200", (100, 200)),
        ("auto", None),
        ("AUTO", None),
        ("source", (-1, -1)),
    ],
)
@pytest.mark.parametrize("dialect", ["classic", "openai"])
def test_sizes(given: str, size: tuple[int, int] | None, dialect: Dialect) -> None:
    assert edit(dialect, size=given).size == size


@pytest.mark.parametrize(
    "given", ["63x64", "64x2049", "1537x1536", "1024", "1024x", "-64x64", "1e3x64", "６４x64", "64 x 64"]
)
def test_bad_sizes_are_refused(given: str) -> None:
    param, message = refusal(size=given)
    assert param == "size"
    assert repr(given) in message


@pytest.mark.parametrize(
    ("texts", "tensor", "param"),
    [
        ({"num_inference_steps": "8"}, "num_inference_steps", "num_inference_steps"),
        ({"steps": "8"}, "num_inference_steps", "steps"),
        ({"sampling_steps": "8"}, "num_inference_steps", "sampling_steps"),
        ({"true_cfg_scale": "8"}, "true_cfg_scale", "true_cfg_scale"),
        ({"cfg_scale": "8"}, "true_cfg_scale", "cfg_scale"),
        ({"cfg": "8"}, "true_cfg_scale", "cfg"),
    ],
)
def test_aliases_are_read_and_remembered(texts: dict[str, str], tensor: str, param: str) -> None:
    parsed = edit("classic", texts)
    assert 8 in (parsed.steps, parsed.true_cfg_scale)
    assert parsed.fields[tensor] == param


@pytest.mark.parametrize(("dialect", "param"), [("classic", "images"), ("openai", "image")])
def test_the_image_tensors_field_is_the_clients(dialect: Dialect, param: str) -> None:
    assert edit(dialect).fields["image"] == param


@pytest.mark.parametrize(
    ("word", "quality"),
    [
        *(("low", "low"), ("Medium", "medium"), ("high", "high"), ("max", "max"), ("auto", "auto"), (" ", "auto")),
        *(("standard", "medium"), ("hd", "high")),
    ],
)
def test_a_word_for_quality_is_read_where_there_are_presets(word: str, quality: str) -> None:
    assert edit(settings=Settings(quality_presets=True), quality=word).quality == quality
    assert edit(settings=Settings(), quality=word).quality == "auto"


ADAPTED = Settings(model_id="base")


@pytest.mark.parametrize("dialect", ["classic", "openai"])
def test_an_adapter_is_asked_for_by_field_or_by_the_served_models_name(dialect: Dialect) -> None:
    named = edit(dialect, lora="ink:0.5, oil", settings=ADAPTED)
    assert (named.lora, named.fields["lora"]) == ("ink:0.5, oil", "lora")
    chosen = edit(dialect, model="base:ink", settings=ADAPTED)
    assert (chosen.lora, chosen.fields["lora"]) == ('{"ink": 1.0}', "model")


@pytest.mark.parametrize("model", ["base", "gpt-image-1", "gpt-image-1:ink", "based:ink", "Base:ink", "a base:ink", ""])
def test_other_names_of_models_ask_for_none(model: str) -> None:
    assert edit(model=model, settings=ADAPTED).lora is None


@pytest.mark.parametrize("name", ["", "ink,oil", "ink:0.5", "../ink", '"'])
def test_what_is_after_the_colon_is_one_name_whatever_it_holds(name: str) -> None:
    assert json.loads(edit(model=f"base:{name}", settings=ADAPTED).lora or "") == {name: 1.0}


def test_the_field_and_an_adapter_in_the_model_exclude_each_other() -> None:
    assert refusal(model="base:ink", lora="oil", settings=ADAPTED)[0] == "lora"
    assert edit(model="gpt-image-1", lora="oil", settings=ADAPTED).lora == "oil"
    assert refusal(lora="x" * 1001)[0] == "lora"


def test_another_word_for_quality_is_refused_only_where_there_are_presets() -> None:
    param, message = refusal(settings=Settings(quality_presets=True), quality="ultra")
    assert (param, message) == ("quality", "quality must be one of auto, low, medium, high, max, got 'ultra'")
    assert edit(quality="ultra").quality == "auto"


@pytest.mark.parametrize(
    "texts",
    [
        {"model": "gpt-image-1", "user": "u", "quality": "auto", "input_fidelity": "high", "moderation": "low"},
        {"background": "auto", "safety_identifier": "s", "complexity": "low", "response_format": "b64_json"},
        {"background": "opaque", "sharpness": "0.5", "aspectRatio": "1:1", "lst": "1", "obj[b][c]": "x"},
        {"output_type": "pil", "max_sequence_length": "512", "guidance_scale": "7.5", "stream": "false"},
        {"output_type": "pt", "partial_images": "0", "stream": "False"},
    ],
)
@pytest.mark.parametrize("dialect", ["classic", "openai"])
def test_harmless_extras_change_nothing(texts: dict[str, str], dialect: Dialect) -> None:
    parsed, plain = edit(dialect, texts, seed="1"), edit(dialect, seed="1")
    assert (parsed.size, parsed.steps, parsed.seed) == (plain.size, plain.steps, plain.seed)


@pytest.mark.parametrize(
    ("texts", "param"),
    [
        ({"n": "11"}, "n"),
        ({"n": "1.5"}, "n"),
        ({"num_inference_steps": "0"}, "num_inference_steps"),
        ({"steps": "101"}, "steps"),
        ({"true_cfg_scale": "NaN"}, "true_cfg_scale"),
        ({"cfg": "20.5"}, "cfg"),
        ({"guidance_scale": "-1"}, "guidance_scale"),
        ({"seed": "-2"}, "seed"),
        ({"layers": "1"}, "layers"),
        ({"layers": "11"}, "layers"),
        ({"resolution": "512"}, "resolution"),
        ({"num_frames": "2"}, "num_frames"),
        ({"seed": str(2**63)}, "seed"),
        ({"output_format": "gif"}, "output_format"),
        ({"output_format": "svg"}, "output_format"),
        ({"output_compression": "101"}, "output_compression"),
        ({"response_format": "url"}, "response_format"),
        ({"response_format": "xml"}, "response_format"),
        ({"stream": "maybe"}, "stream"),
        ({"partial_images": "4"}, "partial_images"),
        ({"output_type": "latent"}, "output_type"),
        ({"max_sequence_length": "0"}, "max_sequence_length"),
        ({"background": "transparent", "output_format": "jpeg"}, "background"),
        ({"background": "green"}, "background"),
        ({"markup": "x"}, "markup"),
        ({"svg[model]": "x"}, "svg"),
        ({"svg[reasoning][effort]": "x"}, "svg"),
        ({"frame_count": "4"}, "frame_count"),
        ({"prompt": " \r\n "}, "prompt"),
        ({"prompt": "x" * 32_001}, "prompt"),
        ({"negative_prompt": "x" * 32_001}, "negative_prompt"),
    ],
    ids=lambda value: next(iter(value.items())).__repr__()[:40] if isinstance(value, dict) else None,
)
@pytest.mark.parametrize("dialect", ["classic", "openai"])
def test_bad_fields_are_refused_by_name(texts: dict[str, str], param: str, dialect: Dialect) -> None:
    assert refusal(dialect, texts)[0] == param


@pytest.mark.parametrize(
    ("parts", "param", "says"),
    [
        ([], "images", "Image is required"),
        ([("mask", upload())], "images", "Image is required"),
        ([("images", upload()), ("image", upload())], "images", "exclude each other"),
        ([("images", upload())] * 17, "images", "at most 16 files, got 17"),
        ([("image[]", upload())] * 4, "image", "at most 3 references on this server, got 4"),
        ([("image", upload()), ("mask", upload()), ("mask", upload())], "mask", "one file, got 2"),
        ([("images", upload()), ("images", upload()), ("mask", upload())], "mask", "exactly one"),
        ([("image", upload())] * 2 + [("url", address("url"))] * 2, "image", "got 4"),
        ([("url[]", address("url"))] * 4, "url", "url takes at most 3 references"),
        ([("image[]", address("images"))] * 4, "images", "images takes at most 3"),
        ([("images[]", "x")], "images", "ambiguous"),
        ([("images[]", upload())], "images", "ambiguous"),
        ([("image", upload()), ("markup", upload()), ("markup[]", upload())], "markup", "one file, got 2"),
        ([("image", upload()), ("markup", upload()), ("mask", upload())], "markup", "exclude each other"),
        ([("images", upload()), ("images", upload()), ("markup", upload())], "markup", "exactly one"),
        ([("image", upload()), ("n", upload())], "n", "must be a text part"),
        ([("image", upload()), ("response_format", upload())], "response_format", "must be a text part"),
    ],
    ids=lambda value: ", ".join(sorted({part[0] for part in value})) or "none" if isinstance(value, list) else None,
)
def test_bad_parts_are_refused_by_name(parts: list[Part], param: str, says: str) -> None:
    with pytest.raises(InvalidInput, match=says) as caught:
        parse([("prompt", "p"), *parts])
    assert caught.value.param == param


def test_a_mask_goes_with_one_classic_image_or_several_references() -> None:
    classic = parse([("prompt", "p"), ("images", upload()), ("mask", upload())])
    assert classic.mask
    assert classic.size is None, "a square has not the shape of the mask"
    assert parse([("prompt", "p"), ("image[]", upload()), ("image[]", upload()), ("mask[]", upload())]).mask


def test_the_product_of_images_and_variants_is_limited_in_a_batch() -> None:
    assert len(edit("classic", images=4, n="4").jobs()) == 16
    assert refusal("classic", images=4, n="5") == ("n", "n=5: 20 outputs were asked for, at most 16 are allowed")
    assert len(edit("openai", images=3, n="10").jobs()) == 10


def test_the_limits_are_the_settings() -> None:
    settings = Settings(max_references=1, max_steps=4, max_side=128, max_outputs_per_request=1)
    assert refusal("openai", images=2, settings=settings)[0] == "image"
    assert refusal(steps="5", settings=settings)[0] == "steps"
    assert refusal(size="129x64", settings=settings)[0] == "size"
    assert refusal(n="2", size="64x64", settings=settings)[0] == "n"
