"""A prompt as a checkpoint takes it."""

from __future__ import annotations

from qwen_edit.errors import BadRequest


def plain(text: str) -> str:
    """With line ends of one kind, and without NUL, at which tokenizers may end."""
    return text.replace("\r\n", "\n").replace("\x00", "")


def worded(prompt: str, wording: tuple[str, str] | None) -> str:
    """In the words that its authors trained it with: that asks for a transparent background, and does so once.

    Raises BadRequest where there is none to have.
    """
    if wording is None:
        raise BadRequest("background", "transparent: pictures of this checkpoint are opaque; auto is allowed")
    before, after = wording
    return prompt if after.strip() in prompt else f"{before}{prompt}{after}"
