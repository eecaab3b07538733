"""Captions of pictures that come without a prompt: each is written once, and found again by its picture."""

from __future__ import annotations

import threading
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from qwen_edit.conditioning.references import Reference
from qwen_edit.errors import Cancelled
from qwen_edit.families.family import Size
from qwen_edit.families.wording import plain
from qwen_edit.pipeline import LayeredPipeline, Pipeline
from qwen_edit.request import MAX_PROMPT_CHARACTERS

REMEMBERED = 1024  # captions, of some 2 kB each

Key = tuple[bytes, Size]  # a picture as it looks at a size


class Captions:
    """Written by one thread, found and awaited by several."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._known: OrderedDict[Key, str] = OrderedDict()
        self._awaited: defaultdict[Key, list[Callable[[], bool]]] = defaultdict(list)  # by whom: see `awaited`
        self._lock = threading.Lock()  # guards the two

    def known(self, picture: Reference, size: Size) -> str | None:
        """Of the picture as it looks at this size; None where it has yet to be written."""
        key = picture.digest, size
        with self._lock:
            caption = self._known.get(key)
            if caption is not None:
                self._known.move_to_end(key)
            return caption

    @contextmanager
    def awaited(self, picture: Reference, size: Size, unwanted: Callable[[], bool]) -> Iterator[None]:
        """Around `written` and the wait for it: whoever's turn it is writes for all, until each is `unwanted`."""
        key = picture.digest, size
        with self._lock:
            self._awaited[key].append(unwanted)
        try:
            yield
        finally:
            with self._lock:
                self._awaited[key].remove(unwanted)
                if not self._awaited[key]:
                    del self._awaited[key]

    def written(self, picture: Reference, size: Size) -> str:
        """Takes up to hundreds of forwards of the text encoder, unless it was written while this one waited.

        It is as a client's prompt would be taken, since it comes back as one. Raises BadRequest, UnknownPictures, and
        Cancelled where nobody awaits it any more.
        """
        if (caption := self.known(picture, size)) is not None:
            return caption
        pipeline, key = self._pipeline, (picture.digest, size)
        assert isinstance(pipeline, LayeredPipeline), "others are refused without a prompt"
        written = pipeline.caption(picture.at(size), lambda: self._unwanted(key))
        if written is None:
            raise Cancelled
        caption = plain(written)[:MAX_PROMPT_CHARACTERS].strip()
        with self._lock:
            self._known[key] = caption
            if len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        return caption

    def _unwanted(self, key: Key) -> bool:
        """Asks one of them where that one still waits: asking has a price, which is paid for each token."""
        with self._lock:
            awaited = list(self._awaited[key])
        return all(unwanted() for unwanted in awaited)
