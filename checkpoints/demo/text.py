"""The demo's text encoder, random but for its scale, and the text embeddings that the transformer is trained on.

Embeddings are drawn with a standard deviation far above what the layers add to them, so that each of the last hidden
states is nearly its word's own vector; the transformer learns to read them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer, Qwen2VLProcessor

from checkpoints.demo.pictures import PictureSource
from checkpoints.demo.wordings import choosing_prompt, prompt, vocabulary_text
from checkpoints.random_weights import build_processor, randomize, text_encoder_config
from checkpoints.tokenizer import TRAINING_TEXT, build_tokenizer, prompt_templates

WIDTH = 128
TEXT = {
    "hidden_size": WIDTH,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "mrope_section": [4, 6, 6],
}
VISION = {"depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "fullatt_block_indexes": [1]}
MIN_PIXELS = 28 * 28
EMBEDDING_STD = 1.0
SEED = 2
DROPPED_TOKENS = 64  # of the template, by the pipeline
TEMPLATE = prompt_templates()[1]
PICTURE_MARK = "Picture {}: <|vision_start|><|image_pad|><|vision_end|>"
# Sides in pixels of the condition pictures in training: small ones, for speed, and those of the server.
CONDITION_SIDES = (56, 112, 168, 256)
CONDITION_ODDS = (0.5, 0.25, 0.15, 0.1)


@dataclass(frozen=True)
class Wording:
    edit: str
    picture: int  # that is to be edited
    embeddings: torch.Tensor  # (tokens, WIDTH)


@dataclass(frozen=True)
class TextEncoder:
    model: Qwen2_5_VLForConditionalGeneration
    tokenizer: Qwen2Tokenizer
    processor: Qwen2VLProcessor

    @torch.no_grad()
    def embeddings(self, text: str, pictures: list[Image.Image]) -> torch.Tensor:
        """What the server passes to the transformer: (tokens, WIDTH)."""
        marks = "".join(PICTURE_MARK.format(number) for number in range(1, len(pictures) + 1))
        inputs = self.processor(text=[TEMPLATE.format(marks + text)], images=pictures, return_tensors="pt")
        hidden = self.model.model(**inputs, use_cache=False).last_hidden_state
        embeddings: torch.Tensor = hidden[0, DROPPED_TOKENS:].clone()
        return embeddings


def build_text_encoder() -> TextEncoder:
    tokenizer = build_tokenizer(f"{TRAINING_TEXT}\n{vocabulary_text()}")
    model = Qwen2_5_VLForConditionalGeneration(text_encoder_config(tokenizer, TEXT, VISION, tied=True))
    randomize(model, torch.Generator().manual_seed(SEED), std=model.config.text_config.initializer_range)
    embeddings = model.get_input_embeddings().weight
    with torch.no_grad():
        embeddings.mul_(EMBEDDING_STD / embeddings.std())
    model.eval().requires_grad_(False)
    return TextEncoder(model, tokenizer, build_processor(tokenizer, MIN_PIXELS))


def by_length(wordings: list[Wording]) -> list[Wording]:
    return sorted(wordings, key=lambda wording: len(wording.embeddings))


class Wordings:
    """Encoded prompts, each seen beside pictures that have nothing to do with it: they must not matter."""

    def __init__(self, encoder: TextEncoder, seed: int, per_edit: int, edits: tuple[str, ...]) -> None:
        self._encoder = encoder
        self._random = np.random.default_rng(seed)
        self._pictures = PictureSource(seed)
        self.single = by_length([self._single(edit) for edit in edits for _ in range(per_edit)])
        self.choosing = by_length([self._choosing(edit, n % 2) for edit in edits for n in range(per_edit)])

    def _single(self, edit: str) -> Wording:
        return Wording(edit, 0, self._encoder.embeddings(prompt(self._random, edit), [self._picture()]))

    def _choosing(self, edit: str, picture: int) -> Wording:
        text = choosing_prompt(self._random, edit, picture)
        return Wording(edit, picture, self._encoder.embeddings(text, [self._picture(), self._picture()]))

    def _picture(self) -> Image.Image:
        width, height = (int(side) for side in self._random.choice(CONDITION_SIDES, 2, p=CONDITION_ODDS))
        return Image.fromarray((self._pictures.picture(width, height) * 255).astype(np.uint8))
