"""Captions of pictures that come without a prompt: each is written once, and found again by its picture."""

from __future__ import annotations

import threading
from collections import OrderedDict

from qwen_edit.conditioning.references import Reference
from qwen_edit.families.family import Size
from qwen_edit.families.wording import plain
from qwen_edit.pipeline import LayeredPipeline, Pipeline
from qwen_edit.request import MAX_PROMPT_CHARACTERS

REMEMBERED = 1024  # captions, of some 2 kB each


class Captions:
    """Written by one thread, found by several."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._known: OrderedDict[tuple[bytes, Size], str] = OrderedDict()
        self._lock = threading.Lock()  # guards _known

    def known(self, picture: Reference, size: Size) -> str | None:
        """Of the picture as it looks at this size; None where it has yet to be written."""
        with self._lock:
            caption = self._known.get((picture.digest, size))
            if caption is not None:
                self._known.move_to_end((picture.digest, size))
            return caption

    def written(self, picture: Reference, size: Size) -> str:
        """Takes up to hundreds of forwards of the text encoder, unless it was written while this one waited.

        It is as a client's prompt would be taken, since it comes back as one. Raises BadRequest, UnknownPictures.
        """
        if (caption := self.known(picture, size)) is not None:
            return caption
        pipeline = self._pipeline
        assert isinstance(pipeline, LayeredPipeline), "others are refused without a prompt"
        caption = plain(pipeline.caption(picture.at(size)))[:MAX_PROMPT_CHARACTERS].strip()
        with self._lock:
            self._known[picture.digest, size] = caption
            if len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        return caption
