"""Qwen-Image-Edit: one reference, which the text encoder sees as large as the VAE does."""

from __future__ import annotations

from qwen_edit.families.family import MEGAPIXEL, Family

EDIT = Family(
    pipeline="QwenImageEditPipeline",
    module="diffusers.pipelines.qwenimage.pipeline_qwenimage_edit",
    max_references=1,
    num_inference_steps=50,
    condition_area=MEGAPIXEL,
    names_pictures=False,
    sizes_output_by=0,
)
