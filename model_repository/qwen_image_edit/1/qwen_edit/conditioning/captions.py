"""Captions of pictures that come without a prompt: each is written once, and found again by its picture."""

from __future__ import annotations

import threading
from collections import OrderedDict

from qwen_edit.conditioning.references import Reference
from qwen_edit.families.family import Size
from qwen_edit.pipeline import LayeredPipeline, Pipeline

REMEMBERED = 1024  # captions, of some 2 kB each


class Captions:
    """For several threads."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._known: OrderedDict[tuple[bytes, Size], str] = OrderedDict()
        self._lock = threading.Lock()  # guards _known

    def known(self, picture: Reference, size: Size) -> str | None:
        """Of the picture as it looks at this size; None where it has yet to be written."""
        with self._lock:
            return self._known.get((picture.digest, size))

    def written(self, picture: Reference, size: Size) -> str:
        """Takes up to hundreds of forwards of the text encoder; raises BadRequest, UnknownPictures."""
        pipeline = self._pipeline
        caption = pipeline.caption(picture.at(size)) if isinstance(pipeline, LayeredPipeline) else ""
        with self._lock:
            self._known[picture.digest, size] = caption
            if len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        return caption
