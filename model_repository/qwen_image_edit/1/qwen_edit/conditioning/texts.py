"""Prompt → the text that the encoder reads: the family's template around it, and no longer than it may be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qwen_edit.conditioning.references import Reference
from qwen_edit.errors import BadRequest
from qwen_edit.families.family import Size
from qwen_edit.families.sizes import Geometry
from qwen_edit.pipeline import Pipeline

# Rotary positions that the transformer has a table for: the text's, after the picture's half extent.
MAX_POSITIONS = 4096


@dataclass(frozen=True)
class Prompt:
    """One text with the pictures it speaks of: the condition of one row."""

    text: str  # template applied
    digests: tuple[bytes, ...]
    sizes: tuple[Size, ...]  # of the pictures as the text encoder sees them
    tokens: int  # that the transformer sees

    @property
    def key(self) -> tuple[object, ...]:
        return ("text", self.text, self.digests, self.sizes)


class Prompts:
    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline

    def prompt(self, text: str, references: Sequence[Reference], geometry: Geometry, tensor: str) -> Prompt:
        """Applies the template and counts the tokens; raises BadRequest naming `tensor` where they do not fit."""
        pictures = picture_names(len(references)) if self._pipeline.family.names_pictures else ""
        templated = self._pipeline.template.format(pictures + self.neutral(text))
        tokens = self._pipeline.text_tokens(templated, geometry.conditions)
        longest_side = max(max(size) for size in (geometry.output, *geometry.references))
        positions = longest_side // (2 * geometry.token_pixels)
        if tokens + positions > MAX_POSITIONS:
            raise BadRequest(
                tensor,
                f"text and pictures take {tokens} text positions: at most {MAX_POSITIONS - positions} are allowed "
                "at this output size with these references",
            )
        return Prompt(templated, tuple(r.digest for r in references), geometry.conditions, tokens)

    def neutral(self, text: str) -> str:
        """Breaks the control tokens in users' text: they would be tokenised as control, not as text."""
        return self._pipeline.control_tokens.sub(lambda match: f"{match[0][0]} {match[0][1:]}", text)


def picture_names(count: int) -> str:
    """How the Plus pipeline names its pictures in front of the prompt."""
    return "".join(f"Picture {number}: <|vision_start|><|image_pad|><|vision_end|>" for number in range(1, count + 1))
