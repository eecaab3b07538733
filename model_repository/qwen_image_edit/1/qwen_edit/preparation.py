"""Decodes and checks new jobs on a thread of its own, so that no denoising step waits for it."""

from __future__ import annotations

import logging
import queue
import threading
from collections import OrderedDict
from collections.abc import Callable

from qwen_edit.conditioning.conditioner import Conditioner, Reference
from qwen_edit.errors import BadRequest, EditError, Failed
from qwen_edit.families.family import Size
from qwen_edit.families.sizes import Geometry, Sizes
from qwen_edit.job import Job, Prepared
from qwen_edit.pictures import masks
from qwen_edit.request import EditRequest

log = logging.getLogger("image_edit_server")

REMEMBERED_SIZES = 4096  # pictures whose size is known without decoding them again


class Preparer:
    """`done(job, None)` or `done(job, error)` is called from its thread for every job it was given."""

    def __init__(
        self,
        sizes: Sizes,
        conditioner: Conditioner,
        *,
        channels: int,
        max_input_pixels: int,
        done: Callable[[Job, EditError | None], None],
    ) -> None:
        self._sizes = sizes
        self._conditioner = conditioner
        self._channels = channels
        self._max_input_pixels = max_input_pixels
        self._done = done
        self._known_sizes: OrderedDict[bytes, Size] = OrderedDict()
        self._queue: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="prepare", daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> None:
        self._queue.put(job)

    def close(self) -> None:
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (job := self._queue.get()) is not None:
            try:
                job.prepared = self._prepare(job.request)
            except EditError as error:
                self._done(job, error)
            except Exception:
                log.exception("edit %s could not be prepared", job.request.id)
                self._done(job, Failed("the request could not be prepared"))
            else:
                self._done(job, None)

    def _prepare(self, request: EditRequest) -> Prepared:
        references = tuple(Reference(data, self._max_input_pixels) for data in request.images)
        geometry = self._sizes.geometry(
            [self._size(reference) for reference in references], request.size, masked=request.mask is not None
        )
        self._check_latents(request, geometry)
        prompt = self._conditioner.prompt(request.prompt, references, geometry, "prompt")
        negative = None
        if request.guided:
            negative = self._conditioner.prompt(request.negative_prompt, references, geometry, "negative_prompt")
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
        width, height = geometry.output
        tokens = (width // self._sizes.multiple) * (height // self._sizes.multiple)
        if request.latents.shape != (tokens, self._channels):
            raise BadRequest(
                "latents",
                f"shape {list(request.latents.shape)}: [{tokens}, {self._channels}] is what {width}x{height} has",
            )
