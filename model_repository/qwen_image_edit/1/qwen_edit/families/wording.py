"""A prompt in the words that a checkpoint's authors trained it with."""

from __future__ import annotations

from qwen_edit.errors import BadRequest


def worded(prompt: str, wording: tuple[str, str] | None) -> str:
    """That asks for a transparent background, and does so once; raises BadRequest where there is none to have."""
    if wording is None:
        raise BadRequest("background", "transparent: pictures of this checkpoint are opaque; auto is allowed")
    before, after = wording
    return prompt if after.strip() in prompt else f"{before}{prompt}{after}"
