"""Qwen-Image-Layered: one picture taken apart into layers, of which the text encoder sees nothing but a caption."""

from __future__ import annotations

from qwen_edit.families.family import Family

LAYERED = Family(
    pipeline="QwenImageLayeredPipeline",
    module="diffusers.pipelines.qwenimage.pipeline_qwenimage_layered",
    max_references=1,
    num_inference_steps=50,
    condition_area=0,
    names_pictures=False,
    sizes_output_by=0,
    reads_alpha=True,
    transparent_wording=("", ""),
    layers=(2, 10),
    shifts_by_root=True,
    max_text_tokens=512,
)
