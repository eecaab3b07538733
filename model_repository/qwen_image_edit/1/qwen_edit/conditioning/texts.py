"""Prompt → the text that the encoder reads: the family's template around it, and no longer than it may be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qwen_edit.conditioning.references import Reference
from qwen_edit.errors import BadRequest
from qwen_edit.families.family import Size
from qwen_edit.families.sizes import Geometry
from qwen_edit.forward.lora_store import Adapters
from qwen_edit.pipeline import Pipeline

# Rotary positions that the transformer has a table for: the text's, after the picture's half extent.
MAX_POSITIONS = 4096
MAX_PREFIX_POSITIONS = 8192
CHARACTERS_PER_TOKEN = 4  # of English; others have fewer


@dataclass(frozen=True)
class Prompt:
    """One text with the pictures it speaks of: the condition of one row."""

    text: str  # template applied
    digests: tuple[bytes, ...]
    sizes: tuple[Size, ...]  # of the pictures as the text encoder sees them
    tokens: int  # that the transformer sees
    caller: str  # whose it is: its encoding is found again by him alone
    adapters: Adapters = ()  # that the transformer sees it with; the text encoder has none

    @property
    def key(self) -> tuple[object, ...]:
        return ("text", self.text, self.digests, self.sizes, self.caller)

    @property
    def prefix_key(self) -> tuple[object, ...]:
        return (*self.key, *((lora.digest, weight) for lora, weight in self.adapters))


class Prompts:
    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._template_tokens: dict[tuple[Size, ...], int] = {}  # by the sizes of the pictures, which are few

    def prompt(
        self,
        text: str,
        references: Sequence[Reference],
        geometry: Geometry,
        tensor: str,
        *,
        caller: str = "",
        cut: bool = False,
        adapters: Adapters = (),
    ) -> Prompt:
        """Applies the template and counts the tokens; raises BadRequest naming `tensor` where they do not fit.

        `cut`: those that fit will do, where the family's pipeline leaves the others out.
        """
        templated = self._pipeline.templated(self.neutral(text), len(references))
        tokens = self._pipeline.text_tokens(templated, geometry.conditions)
        most = self._most_tokens(geometry)
        if cut and most == self._pipeline.family.max_text_tokens:
            tokens = min(tokens, most)
        if tokens > most:
            raise BadRequest(
                tensor,
                f"text and pictures take {tokens} text positions: at most {most} are allowed "
                "at this output size with these references",
            )
        digests = tuple(reference.digest for reference in references)
        return Prompt(templated, digests, geometry.conditions, tokens, caller, adapters)

    def about(self, text: str, geometry: Geometry) -> int:
        """About as many tokens as the text with its pictures has, without reading it."""
        pictures = geometry.conditions
        if pictures not in self._template_tokens:
            templated = self._pipeline.templated("", len(pictures))
            self._template_tokens[pictures] = self._pipeline.text_tokens(templated, geometry.conditions)
        return self._template_tokens[pictures] + len(text) // CHARACTERS_PER_TOKEN

    def _most_tokens(self, geometry: Geometry) -> int:
        if self._pipeline.family.has_prefix:  # where a picture takes positions by its longer side
            pictures = geometry.shapes[1:]
            return MAX_PREFIX_POSITIONS + sum(height * width - max(height, width) for _, height, width in pictures)
        longest_side = max(max(size) for size in (geometry.output, *geometry.references))
        return min(self._pipeline.family.max_text_tokens, MAX_POSITIONS - longest_side // (2 * geometry.token_pixels))

    def neutral(self, text: str) -> str:
        """Breaks the control tokens in users' text: they would be tokenised as control, not as text."""
        return self._pipeline.control_tokens.sub(lambda match: f"{match[0][0]} {match[0][1:]}", text)
