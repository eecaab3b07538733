"""Qwen-Image-Edit-2509 and 2511: several references, named in front of the prompt."""

from __future__ import annotations

from qwen_edit.families.family import Family

PLUS = Family(
    pipeline="QwenImageEditPlusPipeline",
    module="diffusers.pipelines.qwenimage.pipeline_qwenimage_edit_plus",
    max_references=16,
    num_inference_steps=40,
    condition_area=384 * 384,
    names_pictures=True,
    sizes_output_by=-1,
)
