"""A loaded checkpoint and the edits that are made with it, by the engine and by diffusers, for `benchmarks.verify`."""

from __future__ import annotations

import contextlib
import io
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from PIL import Image, ImageChops, ImageDraw, ImageOps
from qwen_edit.engine import Engine
from qwen_edit.families.layering import Layering
from qwen_edit.families.sizes import Geometry
from qwen_edit.forward.pipeline21 import Pipeline21
from qwen_edit.loading.load import Loaded
from qwen_edit.loading.self_check import distance
from qwen_edit.pictures import decoding
from qwen_edit.pictures.decoders import Decoders
from qwen_edit.request import EditRequest
from qwen_edit.worker import PipelineWorker

from tests.kit import layered, stock
from tests.kit.engines import edit
from tests.kit.in_process import Answer, Watch, WatchedWorker, wait_until

PICTURES = Path(__file__).resolve().parents[1] / "tests" / "data"
PROMPT, NEGATIVE = "paint the whole picture in bright orange and put a hat on the cat", "blurry, low quality"
GUIDANCE = 4.0
SECONDS = 3600.0  # after which an edit is given up
MANY_TOKENS = 2**30  # that all of them share forwards


@dataclass(frozen=True)
class Case:
    name: str
    request: EditRequest


@dataclass(frozen=True)
class Made:
    latents: torch.Tensor  # (tokens, channels), in main memory
    image: Any  # (height, width, 3), None where layers are answered
    timings: dict[str, Any]
    seconds: float


class Subject:
    def __init__(self, loaded: Loaded, steps: int) -> None:
        self.pipeline, self.sizes = loaded.pipeline, loaded.sizes
        self._loaded = loaded
        self._steps = loaded.defaults.fixed_steps or steps
        self._side = math.isqrt(loaded.sizes.reference_area) // 32 * 32

    def __enter__(self) -> Self:
        decoders = Decoders(10**8, 10**8)
        # Nothing is kept from one run to the next, and positions are diffusers'.
        worker = PipelineWorker(
            self.pipeline, self.sizes, decoders, cache_bytes=0, prefix_bytes=self._loaded.prefix_bytes, mrope=False,
            takes_turns=self._loaded.takes_turns, replicas=self._loaded.replicas,
        )  # fmt: skip
        self._worker = WatchedWorker(worker)
        self._engine = Engine(self._worker, Watch(), max_jobs=100, max_batch_tokens=MANY_TOKENS)
        return self

    def __exit__(self, *_: object) -> None:
        self._engine.close()

    def cases(self) -> list[Case]:
        """What an edit can be; the first is plain."""
        family, most = self.sizes.family, self._loaded.defaults.references[1]
        cat, others = self._square("cat"), [self._as_it_is(name) for name in ("coffee", "rocket")]
        guided = {"true_cfg_scale": GUIDANCE, "negative_prompt": NEGATIVE, "seed": 2}
        if family.layers:
            return [
                Case("a picture taken apart", self._request(cat, size=None, layering=Layering())),
                Case(
                    "one taken apart with guidance", self._request(others[0], size=None, layering=Layering(), **guided)
                ),
            ]
        cases = [
            Case("an edit of one picture", self._request(cat)),
            Case("one with guidance", self._request(cat, **guided)),
        ]
        if most > 1:
            several = (cat, *others)[:most]
            cases.append(Case(f"one of {len(several)} pictures", self._request(*several, **guided)))
        return cases

    def masked(self) -> Case | None:
        """Of the middle of a picture."""
        if self.sizes.family.layers:
            return None
        mask, side = Image.new("L", (self._side, self._side)), self._side
        ImageDraw.Draw(mask).rectangle(hole(side), fill=255)
        return Case("a masked edit", self._request(self._square("cat"), mask=encoded(mask)))

    def ours(self, cases: Sequence[Case]) -> list[Made]:
        """All at once."""
        requests = [replace(case.request, id=f"{time.monotonic()}-{n}") for n, case in enumerate(cases)]
        goal = self._worker.prepared + len(requests)
        self._worker.before_step = lambda: wait_until(lambda: self._worker.prepared >= goal, SECONDS)
        started = time.perf_counter()
        answers = [Answer() for _ in requests]
        for request, answer in zip(requests, answers, strict=True):
            self._engine.submit(request, answer)
        outcomes = [answer.wait(SECONDS) for answer in answers]
        seconds = time.perf_counter() - started
        latents = [torch.from_numpy(self._worker.final_latents[request.id]) for request in requests]
        return [
            Made(each, outcome.image, outcome.timings, seconds) for each, outcome in zip(latents, outcomes, strict=True)
        ]

    def in_segments(self, case: Case) -> torch.Tensor:
        half = self._steps // 2
        first, second = Answer(), Answer()
        self._engine.submit(replace(case.request, id="first half", stop_step=half), first)
        latents = first.wait(SECONDS).latents
        self._engine.submit(replace(case.request, id="second half", start_step=half, latents=latents), second)
        second.wait(SECONDS)
        return torch.from_numpy(self._worker.final_latents["second half"])

    def by_diffusers(self, case: Case, *, nudged: bool = False) -> tuple[torch.Tensor, float]:
        """Latents, and the seconds that they took; `nudged`: the last bit of what each forward gets is wrong."""
        request = case.request
        started = time.perf_counter()
        with off_by_rounding(self.pipeline.parts.transformer) if nudged else contextlib.nullcontext():
            made = layered.oracle(self, request).latents if request.layering else self._edited(request)
        latents = torch.as_tensor(made).float().cpu()
        return latents, time.perf_counter() - started

    def _edited(self, request: EditRequest) -> Any:
        of_prefix = isinstance(self.pipeline, Pipeline21)
        options: dict[str, Any] = {"output_resolution": math.isqrt(self.sizes.reference_area)} if of_prefix else {}
        with contextlib.nullcontext() if of_prefix else stock.areas(self.sizes):
            return stock.run(
                self.pipeline.parts, [opened(image) for image in request.images], prompt=request.prompt,
                negative_prompt=request.negative_prompt if request.guided else None,
                true_cfg_scale=request.true_cfg_scale, size=request.size,
                num_inference_steps=request.num_inference_steps, seed=request.seed,
                **options,
            )  # fmt: skip

    @torch.inference_mode()
    def picture(self, case: Case, latents: torch.Tensor) -> Image.Image:
        geometry = self._geometry(case.request)
        latents = latents.to(self.pipeline.devices.transformer)
        if self.sizes.family.layers:
            return Image.fromarray(decoding.on_white(decoding.layers(self.pipeline, latents, geometry)[-1]))
        return Image.fromarray(decoding.on_white(decoding.picture(self.pipeline, latents, geometry)))

    def _geometry(self, request: EditRequest) -> Geometry:
        own = [opened(image).size for image in request.images]
        if request.layering:
            return self.sizes.layered(own[0], request.layering)
        return self.sizes.geometry(own, request.size, masked=False)

    def _request(self, *images: bytes, **changes: Any) -> EditRequest:
        common = {"prompt": PROMPT, "size": (self._side, self._side), "num_inference_steps": self._steps}
        return edit(*images, **common | changes)

    def _square(self, name: str) -> bytes:
        """As large as the output: a checkpoint of one area takes no other shape."""
        with Image.open(PICTURES / f"{name}.jpg") as photo:
            left = (photo.width - photo.height) // 2
            square = photo.crop((left, 0, left + photo.height, photo.height))
            return encoded(square.resize((self._side, self._side)))

    def _as_it_is(self, name: str) -> bytes:
        return (PICTURES / f"{name}.jpg").read_bytes()


def mirrored(case: Case) -> Case:
    """As much work, of which nothing is known."""
    images = tuple(encoded(ImageOps.mirror(opened(image))) for image in case.request.images)
    return replace(case, request=replace(case.request, images=images, prompt=f"{case.request.prompt}!"))


@contextlib.contextmanager
def off_by_rounding(transformer: Any) -> Iterator[None]:
    """Wrong in the last bit: the tokens and the time of each forward of diffusers'."""

    def nudge(module: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        hidden, timestep = kwargs["hidden_states"], kwargs["timestep"]
        return args, {
            **kwargs, "hidden_states": nudged(hidden), "timestep": timestep * (1 + torch.finfo(timestep.dtype).eps),
        }  # fmt: skip

    hook = transformer.register_forward_pre_hook(nudge, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


def nudged(values: torch.Tensor) -> torch.Tensor:
    """Up and down in turn along the second axis."""
    signs = torch.ones_like(values)
    signs[:, ::2] = -1
    return values * (1 + torch.finfo(values.dtype).eps * signs)


@torch.inference_mode()
def vae_off(loaded: Loaded, folder: Path) -> list[tuple[str, float, float]] | None:
    """Name, what ours is off by, and diffusers' own rounding; None where the VAE is diffusers' as it is."""
    ours = loaded.pipeline.parts.vae
    if isinstance(loaded.pipeline, Pipeline21) or not (folder / "vae").is_dir():
        return None
    place = {"device": loaded.pipeline.devices.vae, "dtype": ours.dtype}
    theirs = type(ours).from_pretrained(str(folder / "vae"), torch_dtype=ours.dtype).to(place["device"])
    if ours.use_tiling:
        theirs.enable_tiling()
    with Image.open(PICTURES / "cat.jpg") as photo:
        levels = torch.from_numpy(np.array(photo.convert("RGB").resize((256, 256)))).to(**place)
    pixels = (levels.permute(2, 0, 1)[None, :, None] / 127.5 - 1).to(ours.dtype)
    if ours.config.get("input_channels", 3) == 4:
        pixels = torch.cat([pixels, torch.ones_like(pixels[:, :1])], dim=1)

    def encoded_by(vae: Any, given: torch.Tensor) -> torch.Tensor:
        latents: torch.Tensor = vae.encode(given).latent_dist.mode()
        return latents

    def decoded_by(vae: Any, given: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = vae.decode(given).sample
        return found

    latents = encoded_by(theirs, pixels)
    return [
        (name, distance(work(ours, given), reference), distance(work(theirs, nudged(given)), reference))
        for name, work, given in (("VAE, encoding", encoded_by, pixels), ("VAE, decoding", decoded_by, latents))
        for reference in [work(theirs, given)]
    ]


def changed_outside(case: Case, made: Made, margin: int) -> float:
    """Most grey levels that a masked edit changed so many pixels from its mask."""
    with Image.open(io.BytesIO(case.request.images[0])) as source:
        change = np.abs(np.asarray(source.convert("RGB")).astype(int) - made.image.astype(int)).max(axis=2)
    left, top, right, bottom = hole(change.shape[0])
    change[max(0, top - margin) : bottom + margin, max(0, left - margin) : right + margin] = 0
    return float(change.max())


def hole(side: int) -> tuple[int, int, int, int]:
    return side * 3 // 8, side * 3 // 8, side * 5 // 8, side * 5 // 8


def apart(one: Image.Image, other: Image.Image) -> Image.Image:
    return ImageChops.difference(one, other)


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data)).convert("RGB")


def encoded(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()
