"""Memory for Qwen-Image-2.1's prefixes, and the references that fit into it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from qwen_edit.families.known import FAMILIES
from qwen_edit.families.sizes import Sizes
from qwen_edit.forward.pipeline21 import Pipeline21
from qwen_edit.loading import prefix_room
from qwen_edit.loading.checkpoint import LoadError, find
from qwen_edit.loading.load import Loaded, load
from qwen_edit.settings import Settings

AREA = 256 * 256
TOKENS = 256  # of a reference; a long text has 1024
TOKEN_BYTES = 3 * 2 * 64 * 4  # layers, keys and values, width, float32


def loaded(folder: Path, **environ: str) -> Loaded:
    settings = Settings.from_environment({"QWEN_MODEL_DIR": str(folder), "REFERENCE_AREA": str(AREA), **environ})
    return load(find(str(folder)), settings, torch.device("cpu"))


@pytest.mark.parametrize(
    ("environ", "references"),
    [
        ({}, 10),
        ({"PREFIX_CACHE_MB": "8"}, 6),
        ({"PREFIX_CACHE_MB": "1"}, 1),
        ({"PREFIX_CACHE_MB": "8", "MAX_REFERENCES": "9"}, 9),
        ({"MAX_REFERENCES": "12"}, 10),
    ],
    ids=str,
)
def test_as_many_references_are_taken_as_fit_twice(
    checkpoint: Callable[[str], Path], environ: dict[str, str], references: int
) -> None:
    model = loaded(checkpoint("2.1"), **environ)
    assert model.defaults.references == (0, references)
    if "PREFIX_CACHE_MB" in environ:
        assert model.prefix_bytes == int(environ["PREFIX_CACHE_MB"]) * 2**20
    else:
        assert model.prefix_bytes == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4
    if references == 6:
        assert 2 * (1024 + 6 * TOKENS) * TOKEN_BYTES <= model.prefix_bytes < 2 * (1024 + 7 * TOKENS) * TOKEN_BYTES


@pytest.mark.parametrize(("family", "references"), [("edit", (1, 1)), ("plus", (1, 3))])
def test_other_families_take_what_they_took(
    checkpoint: Callable[[str], Path], family: str, references: tuple[int, int]
) -> None:
    model = loaded(checkpoint(family))
    assert (model.defaults.references, model.prefix_bytes) == (references, 0)


def test_the_largest_edit_is_made_with_all_that_an_edit_needs(checkpoint: Callable[[str], Path]) -> None:
    """On a GPU its memory is measured."""
    model = loaded(checkpoint("2.1"))
    assert isinstance(model.pipeline, Pipeline21)
    made = prefix_room.make_largest(model.pipeline, model.sizes, 64 * 64, references=2)
    assert made > 2 * TOKENS * TOKEN_BYTES
    assert made % TOKEN_BYTES == 0


@pytest.mark.parametrize(
    ("fits", "asked", "references"), [(3, None, 3), (10, None, 10), (3, "2", 2), (3, "5", 0), (0, None, 0)]
)
def test_where_a_largest_edit_does_not_fit_fewer_references_are_taken(
    checkpoint: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, fits: int, asked: str | None, references: int
) -> None:
    def free_beside(pipeline: object, sizes: object, output_pixels: int, count: int) -> int:
        if count > fits:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return 2**30

    monkeypatch.setattr(prefix_room, "free_beside", free_beside)
    environ = {"MAX_REFERENCES": asked} if asked else {}
    if references:
        model = loaded(checkpoint("2.1"), **environ)
        assert (model.prefix_bytes, model.defaults.references[1]) == (2**30, references)
        return
    with pytest.raises(LoadError, match=rf"MAX_REFERENCES={asked or 1}, MAX_PIXELS=2359296: so large an edit does not"):
        loaded(checkpoint("2.1"), **environ)


def test_a_fine_tune_is_told_by_its_class(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    folder = tmp_path / "FireRed-Image-Edit"
    folder.symlink_to(checkpoint("plus"))
    assert find(str(folder)).family.pipeline == "QwenImageEditPlusPipeline"


def test_compile_is_refused_in_one_line(checkpoint: Callable[[str], Path]) -> None:
    with pytest.raises(LoadError, match="COMPILE=true: not for a QwenImage21Pipeline checkpoint"):
        loaded(checkpoint("2.1"), COMPILE="true")


def test_one_picture_serves_both_encoders_also_beyond_a_megapixel() -> None:
    sizes = Sizes(FAMILIES["QwenImage21Pipeline"], 2 * 1024 * 1024, 16)
    geometry = sizes.geometry([(3000, 2000)], None, masked=False)
    assert geometry.conditions == geometry.references
