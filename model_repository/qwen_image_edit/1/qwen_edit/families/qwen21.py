"""Qwen-Image-2.1: up to ten references, whose keys and values are computed once for all steps."""

from __future__ import annotations

from qwen_edit.families.family import MEGAPIXEL, Family

QWEN21 = Family(
    pipeline="QwenImage21Pipeline",
    module="diffusers.pipelines.qwenimage21.pipeline_qwenimage21",
    max_references=10,
    least_references=0,
    usual_references=10,
    num_inference_steps=40,
    condition_area=MEGAPIXEL,
    names_pictures=False,
    sizes_output_by=-1,
    true_cfg_scale=1.0,
    negative_prompt="",
    renormalises=False,
    reads_alpha=True,
    transparent_wording=(
        "This is an RGBA image with transparency. ",
        " The image has alpha channel and the background is transparent.",
    ),
    has_prefix=True,
    edits_whole_latents=True,
)
