"""Reference pictures of a request, at the sizes that their encoding needs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from PIL import Image

from qwen_edit.errors import UnknownPictures
from qwen_edit.families.family import Size
from qwen_edit.pictures.decoders import Decoders, Wanted
from qwen_edit.request import EditRequest


class Reference:
    """An uploaded reference image; its own size, often fifty times as many pixels, never comes to this process.

    One that was only named has no data: it can be used while its encodings are at hand.
    """

    def __init__(self, data: bytes | None, digest: bytes, decoders: Decoders, *, alpha: bool) -> None:
        """`digest` names it in the caches; `alpha`: it is kept."""
        self._data = data
        self._decoders = decoders
        self._alpha = alpha
        self._resized: dict[Size, Image.Image] = {}
        self.digest = digest

    def decode(self, wanted: Wanted) -> Size:
        """Keeps it at the sizes that are wanted of its own, which is returned; raises BadRequest, UnknownPictures."""
        if self._data is None:
            raise UnknownPictures
        sizes: list[Size] = []

        def noted(own: Size) -> list[Size]:
            sizes.extend(dict.fromkeys(wanted(own)))
            return sizes

        own, pictures = self._decoders.picture(self._data, noted, alpha=self._alpha)
        self._resized.update(zip(sizes, pictures, strict=True))
        return own

    def resize(self, sizes: list[Size]) -> None:
        self.decode(lambda _: sizes)

    def has(self, sizes: Iterable[Size]) -> bool:
        return all(size in self._resized for size in sizes)

    def at(self, size: Size) -> Image.Image:
        """The picture resized as the pipelines do it."""
        if size not in self._resized:
            self.resize([size])
        return self._resized[size]

    def keep_only(self, sizes: Iterable[Size]) -> None:
        self._resized = {size: self._resized[size] for size in sizes}


def references_of(request: EditRequest, decoders: Decoders, *, alpha: bool) -> tuple[Reference, ...]:
    """Those that a request brings, or names."""
    named = [(None, digest) for digest in request.pictures]
    brought = [(data, hashlib.sha256(data).digest()) for data in request.images]
    return tuple(
        Reference(data, _salted(digest, request.caller), decoders, alpha=alpha) for data, digest in named or brought
    )


def _salted(digest: bytes, caller: str) -> bytes:
    """By which what is known of a picture is found again: by this caller alone, lest another learns what he sent."""
    return hashlib.sha256(digest + caller.encode()).digest() if caller else digest
