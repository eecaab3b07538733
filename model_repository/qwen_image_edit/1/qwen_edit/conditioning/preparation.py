"""Request → what is known of an edit before anything is encoded: pictures decoded, sizes chosen, texts checked."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import Self

from qwen_edit.conditioning.conditioner import Conditioner
from qwen_edit.conditioning.references import Reference
from qwen_edit.conditioning.texts import Prompt, Prompts
from qwen_edit.errors import BadRequest
from qwen_edit.families.family import Size
from qwen_edit.families.sizes import Geometry, Sizes
from qwen_edit.pictures import masks
from qwen_edit.pictures.masks import Mask
from qwen_edit.request import EditRequest

REMEMBERED_SIZES = 4096  # pictures whose size is known without decoding them again


@dataclass(frozen=True)
class Prepared:
    """A job whose pictures are decoded and whose sizes and texts are checked."""

    references: tuple[Reference, ...]
    geometry: Geometry
    prompt: Prompt
    negative_prompt: Prompt | None  # None: no guidance
    mask: Mask | None

    @property
    def prompts(self) -> tuple[Prompt, ...]:
        return (self.prompt,) if self.negative_prompt is None else (self.prompt, self.negative_prompt)

    @property
    def latents(self) -> tuple[tuple[Reference, Size], ...]:
        """What the VAE encodes, and at which size; a masked job needs its source at the output's size too."""
        references = tuple(zip(self.references, self.geometry.references, strict=True))
        return references if self.mask is None else (*references, (self.references[0], self.geometry.output))

    def without_pictures(self) -> Self:
        return replace(self, references=())


class Preparation:
    """Not for several threads."""

    def __init__(
        self, sizes: Sizes, prompts: Prompts, conditioner: Conditioner, *, channels: int, max_input_pixels: int
    ) -> None:
        self._sizes = sizes
        self._prompts = prompts
        self._conditioner = conditioner
        self._channels = channels  # of a packed token
        self._max_input_pixels = max_input_pixels
        self._known_sizes: OrderedDict[bytes, Size] = OrderedDict()

    def prepare(self, request: EditRequest) -> Prepared:
        """Raises BadRequest."""
        references = tuple(Reference(data, self._max_input_pixels) for data in request.images)
        geometry = self._sizes.geometry(
            [self._size(reference) for reference in references], request.size, masked=request.mask is not None
        )
        self._check_latents(request, geometry)
        prompt = self._prompts.prompt(request.prompt, references, geometry, "prompt")
        negative = None
        if request.guided:
            negative = self._prompts.prompt(request.negative_prompt, references, geometry, "negative_prompt")
        mask = None
        if request.mask is not None:
            region = masks.decode(request.mask, self._max_input_pixels)
            mask = masks.fit(region, references[0].picture, geometry.output, size_asked=request.size is not None)
        prepared = Prepared(references, geometry, prompt, negative, mask)
        self._resize(prepared)
        return prepared

    def _resize(self, prepared: Prepared) -> None:
        """Leaves of every picture what its encoding needs, and nothing where it is encoded already."""
        latents = prepared.latents
        cached = self._conditioner.is_cached(prepared.prompts, latents)
        for reference, condition in zip(prepared.references, prepared.geometry.conditions, strict=True):
            needed = [condition, *(size for other, size in latents if other is reference)]
            reference.keep_only([] if cached else needed)

    def _size(self, reference: Reference) -> Size:
        """Of a picture seen before without decoding it: its encodings are likely in the cache."""
        size = self._known_sizes.pop(reference.digest, None) or reference.picture.size
        self._known_sizes[reference.digest] = size
        if len(self._known_sizes) > REMEMBERED_SIZES:
            self._known_sizes.popitem(last=False)
        return size

    def _check_latents(self, request: EditRequest, geometry: Geometry) -> None:
        if request.latents is None:
            return
        (tokens, *_), (width, height) = geometry.tokens, geometry.output
        if request.latents.shape != (tokens, self._channels):
            raise BadRequest(
                "latents",
                f"shape {list(request.latents.shape)}: [{tokens}, {self._channels}] is what {width}x{height} has",
            )
