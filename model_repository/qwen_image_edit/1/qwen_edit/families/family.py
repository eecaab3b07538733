"""What differs between the Qwen-Image-Edit families.

Source of the numbers: diffusers' pipelines of these names, and the model cards.
"""

from __future__ import annotations

from dataclasses import dataclass

MEGAPIXEL = 1024 * 1024  # the area, in pixels, at which every family encodes its references
Size = tuple[int, int]  # width, height in pixels
SOURCE: Size = (-1, -1)  # in place of a size that is asked for: the first picture's own


@dataclass(frozen=True)
class Family:
    pipeline: str  # diffusers class, as model_index.json names it
    module: str  # that defines it, and its calculate_dimensions
    max_references: int
    num_inference_steps: int
    condition_area: int  # pixels of a reference as the text encoder sees it; 0: it sees none
    names_pictures: bool  # in front of the prompt; else the template has its one picture
    sizes_output_by: int  # index of the reference whose shape the output takes
    true_cfg_scale: float = 4.0  # of an edit that names none
    negative_prompt: str = " "  # likewise; empty: no guidance. The authors run it with one space
    renormalises: bool = True  # a guided velocity, to each token's norm without guidance
    least_references: int = 1  # 0: it makes pictures of a text alone too
    reads_alpha: bool = False  # of references, and answers it; else they are flattened on white
    # Around a prompt that asks for a transparent background, as its authors word it.
    transparent_wording: tuple[str, str] | None = None
    # Text and references are a prefix, the same at every step; sides are multiples of two tokens.
    has_prefix: bool = False
    usual_references: int = 3  # at most, where MAX_REFERENCES names no other number
    # Under a mask a latent is edited where any of its pixels is; else where its first one is, as diffusers' inpainting.
    edits_whole_latents: bool = False
    layers: tuple[int, int] | None = None  # least and most that it takes a picture apart into; None: it edits pictures
    shifts_by_root: bool = False  # the noise schedule, with the root of a picture's tokens; else linearly
    max_text_tokens: int = 4096
