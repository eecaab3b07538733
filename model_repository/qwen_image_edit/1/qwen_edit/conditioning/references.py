"""Reference pictures of a request, at the sizes that their encoding needs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain, repeat

from PIL import Image

from qwen_edit.errors import BadRequest, UnknownPictures
from qwen_edit.families.family import Size
from qwen_edit.families.grid import aspect_error
from qwen_edit.pictures.decoders import Decoders, Wanted
from qwen_edit.request import EditRequest

DRAWING_ASPECT_OFF = 0.02  # of a drawing against its picture


@dataclass(frozen=True)
class Drawing:
    """An encoded picture with transparency that is laid over a reference image."""

    data: bytes
    decoders: Decoders

    @property
    def digest(self) -> bytes:
        return hashlib.sha256(self.data).digest()

    def over(self, pictures: list[Image.Image], own: Size) -> list[Image.Image]:
        """At each of their sizes; `own` is the whole picture's. Raises BadRequest where the shapes differ."""

        def wanted(size: Size) -> list[Size]:
            if aspect_error(size, own) > DRAWING_ASPECT_OFF:
                raise BadRequest(
                    "markup",
                    f"{size[0]}x{size[1]}: the aspect ratio of the first reference image, {own[0]}x{own[1]}, is needed",
                )
            return [picture.size for picture in pictures]

        _, drawings = self.decoders.drawing(self.data, wanted)
        return [
            Image.alpha_composite(picture.convert("RGBA"), drawing).convert(picture.mode)
            for picture, drawing in zip(pictures, drawings, strict=True)
        ]


class Reference:
    """An uploaded reference image; its own size, often fifty times as many pixels, never comes to this process.

    One that was only named has no data: it can be used while its encodings are at hand.
    """

    def __init__(
        self, data: bytes | None, digest: bytes, decoders: Decoders, *, alpha: bool, drawing: Drawing | None = None
    ) -> None:
        """`digest` names it in the caches, with what is drawn over it; `alpha`: it is kept."""
        self._data = data
        self._decoders = decoders
        self._alpha = alpha
        self._drawing = drawing
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
        if self._drawing and pictures:
            pictures = self._drawing.over(pictures, own)
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
    drawing = Drawing(request.markup, decoders) if request.markup else None
    return tuple(
        Reference(data, _salted(_drawn_over(digest, drawn), request.caller), decoders, alpha=alpha, drawing=drawn)
        for (data, digest), drawn in zip(named or brought, chain([drawing], repeat(None)), strict=False)
    )


def _drawn_over(digest: bytes, drawing: Drawing | None) -> bytes:
    return hashlib.sha256(digest + drawing.digest).digest() if drawing else digest


def _salted(digest: bytes, caller: str) -> bytes:
    """By which what is known of a picture is found again: by this caller alone, lest another learns what he sent."""
    return hashlib.sha256(digest + caller.encode()).digest() if caller else digest
