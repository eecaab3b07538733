"""Request → what is known of an edit before anything is encoded: pictures decoded, sizes chosen, texts checked."""

from __future__ import annotations

import hashlib
import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from enum import Enum, auto
from functools import partial
from typing import Self

from qwen_edit.conditioning.captions import Captions
from qwen_edit.conditioning.conditioner import Conditioner
from qwen_edit.conditioning.references import Reference, references_of
from qwen_edit.conditioning.texts import Prompt, Prompts
from qwen_edit.device_errors import is_out_of_memory
from qwen_edit.errors import BadRequest
from qwen_edit.families.family import Size
from qwen_edit.families.sizes import Geometry, Sizes
from qwen_edit.forward.lora_store import Adapters, Lora, identity_of
from qwen_edit.loading.loras import Loras, check_together
from qwen_edit.pictures import masks
from qwen_edit.pictures.decoders import Decoders
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
    caption: str = ""  # in the place of a prompt that was empty
    adapters: Adapters = ()

    @property
    def prompts(self) -> tuple[Prompt, ...]:
        return (self.prompt,) if self.negative_prompt is None else (self.prompt, self.negative_prompt)

    @property
    def seen(self) -> tuple[Reference, ...]:
        """Those of the references that the text encoder sees: all or none."""
        return self.references if self.geometry.conditions else ()

    def without_pictures(self) -> Self:
        return replace(self, references=())


class Work(Enum):
    """What is slow, in preparation, and waits for a thread of its kind; captions have one."""

    PICTURE = auto()  # to be decoded
    CAPTION = auto()  # to be written, on the device
    CAPTION_AGAIN = auto()  # which ran out of memory there: alone, once memory was freed
    ADAPTER = auto()  # to be read


Preparing = Generator[Work, None, Prepared]  # stops before all such work


class Preparation:
    """For several threads."""

    def __init__(
        self,
        sizes: Sizes,
        prompts: Prompts,
        captions: Captions,
        conditioner: Conditioner,
        decoders: Decoders,
        loras: Loras | None,
        *,
        channels: int,
    ) -> None:
        """`loras`: None where requests may name none."""
        self._sizes = sizes
        self._prompts = prompts
        self._captions = captions
        self._conditioner = conditioner
        self._decoders = decoders
        self._loras = loras
        self._channels = channels  # of a packed token
        self._known_sizes: OrderedDict[bytes, Size] = OrderedDict()
        self._lock = threading.Lock()  # guards _known_sizes

    def expected_tokens(self, request: EditRequest) -> tuple[int, ...]:
        """About the tokens of each row: as if the pictures were square. Nothing is decoded; raises BadRequest."""
        side = math.isqrt(self._sizes.reference_area)
        geometry = self._geometry(request, [(side, side)] * (len(request.images) or len(request.pictures)))
        texts = (request.prompt, request.negative_prompt) if request.guided else (request.prompt,)
        return tuple(geometry.row_tokens(self._prompts.about(text, geometry)) for text in texts)

    def prepare(self, request: EditRequest, unwanted: Callable[[], bool]) -> Preparing:
        """Stops before each picture that it decodes, a caption and adapters; raises BadRequest, UnknownPictures.

        `unwanted`: whether nobody waits for the edit any more; a caption is then cut short, and Cancelled raised.
        """
        adapters = yield from self._adapters(request)
        references = references_of(request, self._decoders, alpha=self._sizes.family.reads_alpha)
        own = yield from self._own_sizes(request, references)
        geometry = self._geometry(request, own)
        self._check_latents(request, geometry)
        caller = request.caller
        seen = references if geometry.conditions else ()
        caption = "" if request.prompt else (yield from self._caption(references[0], geometry.output, unwanted))
        # A run that continues brings its caption back as its prompt; what was too long was refused when it began.
        cut = caption != "" or request.continued
        text = request.prompt or caption
        prompt = self._prompts.prompt(text, seen, geometry, "prompt", caller=caller, cut=cut, adapters=adapters)
        negative = None
        if request.guided:
            texts = request.negative_prompt, seen, geometry, "negative_prompt"
            negative = self._prompts.prompt(*texts, caller=caller, adapters=adapters)
        prepared = Prepared(references, geometry, prompt, negative, mask=None, caption=caption, adapters=adapters)
        self._conditioner.check_room(prepared.prompts)
        if request.mask is None:
            yield from self._decode(prepared)
            return prepared
        return replace(prepared, mask=(yield from self._masked(request, request.mask, prepared, own[0])))

    def _masked(self, request: EditRequest, data: bytes, prepared: Prepared, own: Size) -> Generator[Work, None, Mask]:
        """The mask with its source, which every segment of an edit needs; the source's own size is `own`."""
        geometry, source = prepared.geometry, prepared.references[0]
        asked = request.size is not None
        key = ("mask", source.digest, hashlib.sha256(data).digest(), geometry.output, geometry.answer, asked)
        kept: Mask | None = self._conditioner.cache.find(key)
        yield from self._decode(prepared, masked=True, source=kept is None)
        if kept is not None:
            return kept
        yield Work.PICTURE
        picture = source.at(geometry.answer)
        mask = masks.fit(self._decoders, data, picture, own, geometry.output, size_asked=asked)
        self._conditioner.cache.keep(key, mask)
        return mask

    def _adapters(self, request: EditRequest) -> Generator[Work, None, Adapters]:
        """Those that it names, and of a run that continues the same that it began with."""
        loras: dict[str, Lora] = {}
        for name, _ in request.lora:
            if self._loras is None:
                none = "this server has no adapters for requests: leave it out, or set LORA_DIR"
                raise BadRequest("lora", f"{name!r}: {none}")
            known = self._loras.known(name)
            if known is None:
                yield Work.ADAPTER
                known = self._loras.read(name)
            loras[name] = known
        if self._loras:
            check_together(loras, self._loras.max_bytes)
        adapters = tuple((loras[name], weight) for name, weight in request.lora)
        if request.continued and request.adapters not in (None, identity_of(adapters)):
            raise BadRequest("lora", "not the adapters, or not their files, that this edit began with: begin it again")
        return adapters

    def _caption(self, picture: Reference, size: Size, unwanted: Callable[[], bool]) -> Generator[Work, None, str]:
        caption = self._captions.known(picture, size)
        if caption is None:
            with self._captions.awaited(picture, size, unwanted):
                yield Work.CAPTION
                try:
                    return self._captions.written(picture, size)
                except Exception as error:
                    if not is_out_of_memory(error):
                        raise
                # Not in the `except`: the error's traceback keeps all that the failed forward has allocated.
                yield Work.CAPTION_AGAIN
                return self._captions.written(picture, size)
        return caption

    def _geometry(self, request: EditRequest, own: list[Size]) -> Geometry:
        """For pictures of these sizes."""
        if request.layering:
            return self._sizes.layered(own[0], request.layering)
        return self._sizes.geometry(own, request.size, masked=request.mask is not None)

    def _own_sizes(self, request: EditRequest, references: tuple[Reference, ...]) -> Generator[Work, None, list[Size]]:
        """Of a picture seen before without decoding it: its encodings are likely in the cache."""
        sizes = []
        for number, reference in enumerate(references):
            size = self._known_size(reference)
            if size is None:
                yield Work.PICTURE
                masked = number == 0 and request.mask is not None
                size = reference.decode(partial(self._needed, request, masked=masked))
            self._remember(reference, size)
            sizes.append(size)
        return sizes

    def _needed(self, request: EditRequest, own: Size, *, masked: bool) -> list[Size]:
        """Of a picture of this size; the first of a masked job is its source too, and shapes its output."""
        alone = self._geometry(request, [own])
        return [*alone.conditions, *alone.references, *([alone.output, alone.answer] if masked else [])]

    def _decode(self, prepared: Prepared, *, masked: bool = False, source: bool = False) -> Generator[Work, None, None]:
        """Leaves of every picture what its encoding needs, and nothing where it is encoded already.

        With `source` the first one at the answer's size too, in which its mask is put.
        """
        geometry = prepared.geometry
        cached = self._conditioner.is_cached(prepared.prompts, _latents(prepared.references, geometry, masked=masked))
        for number, reference in enumerate(prepared.references):
            needed = [] if cached else [*geometry.conditions[number : number + 1], geometry.references[number]]
            if masked and number == 0 and not cached:
                needed.append(geometry.output)
            if source and number == 0:
                needed.append(geometry.answer)
            if not reference.has(needed):
                yield Work.PICTURE
                reference.resize(needed)
            reference.keep_only(needed)

    def _known_size(self, reference: Reference) -> Size | None:
        with self._lock:
            return self._known_sizes.get(reference.digest)

    def _remember(self, reference: Reference, size: Size) -> None:
        with self._lock:
            self._known_sizes[reference.digest] = size
            self._known_sizes.move_to_end(reference.digest)
            if len(self._known_sizes) > REMEMBERED_SIZES:
                self._known_sizes.popitem(last=False)

    def _check_latents(self, request: EditRequest, geometry: Geometry) -> None:
        if request.latents is None:
            return
        (tokens, *_), (width, height) = geometry.tokens, geometry.output
        if request.latents.shape != (tokens, self._channels):
            raise BadRequest(
                "latents",
                f"shape {list(request.latents.shape)}: [{tokens}, {self._channels}] is what {width}x{height} has",
            )


def _latents(
    references: tuple[Reference, ...], geometry: Geometry, *, masked: bool
) -> tuple[tuple[Reference, Size], ...]:
    """What the VAE encodes, and at which size; a masked job needs its source at the output's size too."""
    each = tuple(zip(references, geometry.references, strict=True))
    return (*each, (references[0], geometry.output)) if masked else each
