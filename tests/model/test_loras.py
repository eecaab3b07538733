"""LoRA adapters of single edits: each edit of a crowd has its own, and is what diffusers and peft make of it alone."""

from __future__ import annotations

import gc
import io
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from qwen_edit.errors import BadRequest
from qwen_edit.forward.lora_asked import Asked
from qwen_edit.forward.lora_store import Lora
from qwen_edit.forward.replicas import Replicas
from qwen_edit.loading.assembly import pipeline_of, replicas_of
from qwen_edit.loading.lora_files import LoraFiles
from qwen_edit.loading.loras import Loras
from qwen_edit.request import EditRequest
from qwen_edit.settings import Loading

from tests.kit import loras, stock
from tests.kit.engines import TestEngine, difference, edit, engine_on, load_pipeline
from tests.kit.in_process import wait_until

BOUND = 1e-4
AREA = 64 * 64
CPU = torch.device("cpu")
FAMILIES = ("plus-2511", "2.1")
ADAPTERS = ("all", "blocks", "tokens", "times")
CROWD: tuple[Asked, ...] = (
    (("all", 1.0),),
    (),
    (("blocks", 0.5),),
    (("tokens", 1.0),),
    (("times", -1.0),),
    (),
    (("all", 0.75), ("tokens", -0.5)),
    (("all", 1.0),),
)


class Served:
    """An engine with a folder of adapters, and the same checkpoint as diffusers loads it with them."""

    def __init__(self, checkpoint: Path, folder: Path) -> None:
        self.checkpoint = checkpoint
        self.folder = folder
        self.parts = load_pipeline(checkpoint)
        self.pipeline = pipeline_of(self.parts)
        self.peft = load_pipeline(checkpoint)
        transformer = self.parts.transformer
        in_blocks = loras.pairs(transformer, ["attn", "mlp"], seed=1, rank=3)
        loras.write(folder, "all", loras.trainer_keys(loras.pairs(transformer, [""], seed=0), alpha=3.0))
        if type(self.parts).__name__ == "QwenImage21Pipeline":
            loras.write(folder, "blocks", loras.diffusers_keys(in_blocks))
        else:
            loras.write(folder, "blocks", loras.kohya_keys(in_blocks, alpha=2.0))
        tokens = loras.diffusers_keys(loras.pairs(transformer, ["to_k", "_in", "proj_out"], seed=2))
        config = {"r": 2, "lora_alpha": 4, "alpha_pattern": {"proj_out": 1}, "target_modules": ["to_k"]}
        config["target_modules"] = sorted({key.split(".lora_")[0].removeprefix("transformer.") for key in tokens})
        loras.write(folder, "tokens", tokens, config=config)
        of_times = loras.pairs(transformer, ["_mod.", "modulation.", "time", "norm_out"], seed=3)
        loras.write(folder, "times", loras.diffusers_keys(of_times))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Already found a `peft_config`")  # several are meant
            for name in ADAPTERS:
                self.peft.load_lora_weights(str(folder), weight_name=f"{name}.safetensors", adapter_name=name)

    def largest(self) -> int:
        """Bytes of the largest adapter."""
        found = Loras(LoraFiles(str(self.folder)), self.pipeline, 2**24)
        return max(found.read(name).bytes for name in ADAPTERS)

    def alone(self, engine: TestEngine, request: EditRequest) -> npt.NDArray[np.float32]:
        """By diffusers, with peft's adapters active."""
        if request.lora:
            self.peft.transformer.enable_adapters()
            self.peft.set_adapters([name for name, _ in request.lora], [weight for _, weight in request.lora])
        else:
            self.peft.transformer.disable_adapters()
        mode = "RGBA" if engine.pipeline.family.reads_alpha else "RGB"
        with stock.areas(engine.sizes):
            latents = stock.run(
                self.peft,
                [Image.open(io.BytesIO(image)).convert(mode) for image in request.images],
                prompt=request.prompt,
                negative_prompt=request.negative_prompt if request.guided else None,
                true_cfg_scale=request.true_cfg_scale,
                size=request.size,
                num_inference_steps=request.num_inference_steps,
                seed=request.seed,
            )
        return np.asarray(latents)


@pytest.fixture(scope="module", params=FAMILIES)
def served(
    request: pytest.FixtureRequest, sensitive: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Served:
    return Served(sensitive(request.param), tmp_path_factory.mktemp("loras"))


one_family = pytest.mark.parametrize("served", FAMILIES[:1], indirect=True)


@pytest.fixture
def engine(served: Served) -> Iterator[TestEngine]:
    with engine_with(served) as running:
        yield running


def engine_with(served: Served, **options: Any) -> Any:
    options = {"lora_files": LoraFiles(str(served.folder)), "lora_bytes": 2**24, "reference_area": AREA} | options
    return engine_on(options.pop("parts", served.parts), **options)


@pytest.fixture
def crowd(photo: Callable[[str], bytes]) -> list[EditRequest]:
    """Of other sizes, numbers of references and texts, every other one guided."""
    sizes = [(64, 64), (96, 64), (64, 128)]
    names = ["cat", "coffee", "rocket"]
    return [
        edit(
            *(photo(name) for name in names[: 1 + number % 2]), size=sizes[number % 3], seed=number, lora=asked,
            num_inference_steps=2, true_cfg_scale=4.0 if number % 2 else 1.0, prompt="paint it orange " * (1 + number),
        )
        for number, asked in enumerate(CROWD)
    ]  # fmt: skip


def together(engine: TestEngine, requests: Sequence[EditRequest]) -> list[npt.NDArray[np.float32]]:
    """Their latents, and all of them in each of their forwards."""
    ready = threading.Event()
    engine.worker.before_step = lambda: ready.wait(30)
    before = engine.worker.prepared
    answers = [engine.submit(edit(requests[0].images[0], num_inference_steps=2))]  # holds up the others
    wait_until(lambda: engine.worker.batches != [])
    answers += [engine.submit(request) for request in requests]
    wait_until(lambda: engine.worker.prepared == before + len(answers))
    engine.worker.batches.clear()
    ready.set()
    for answer in answers:
        answer.wait()
    return [engine.final_latents[request.id] for request in requests]


def test_each_edit_of_a_crowd_is_what_peft_makes_of_it_alone(
    served: Served, engine: TestEngine, crowd: list[EditRequest]
) -> None:
    made = together(engine, crowd)
    everybody = {request.id for request in crowd}
    forwards = [set(batch) & everybody for batch in engine.worker.batches]
    assert [each for each in forwards if each] == [everybody] * 2, "as with one adapter, or none"
    alone = [served.alone(engine, request) for request in crowd]
    assert max(map(difference, made, alone)) <= BOUND
    plain = [engine.latents(replace(request, id=f"plain-{n}", lora=())) for n, request in enumerate(crowd)]
    changed = [difference(made_, plain_) > 100 * BOUND for made_, plain_ in zip(made, plain, strict=True)]
    assert changed == [request.lora != () for request in crowd], "or the adapters would show nothing"


@one_family
def test_each_of_two_transformers_has_them(served: Served, engine: TestEngine, crowd: list[EditRequest]) -> None:
    alone = [engine.latents(request) for request in crowd]
    parts = load_pipeline(served.checkpoint)
    pipelines = [pipeline for pipeline, _ in replicas_of(parts, Loading(), [CPU, CPU])]
    seen: list[set[str]] = [set(), set()]

    def note(module: Any, given: Any, named: dict[str, Any]) -> None:
        number = [pipeline.parts.transformer for pipeline in pipelines].index(module)
        seen[number] |= {lora.digest for row in named["rows"] for lora in row.loras}

    for pipeline in pipelines:
        pipeline.parts.transformer.register_forward_pre_hook(note, with_kwargs=True)
    with engine_with(served, parts=parts, replicas=Replicas(pipelines)) as two:
        made = together(two, crowd)
    assert max(map(difference, made, alone)) <= BOUND
    assert min(map(len, seen)) >= 2, "each was meant to have rows of several"


@one_family
def test_a_hundred_switches_leave_memory_flat(served: Served, photo: Callable[[str], bytes]) -> None:
    cat, alive = photo("cat"), []
    with engine_with(served, lora_bytes=served.largest()) as engine:
        for number in range(100):
            asked = ((ADAPTERS[number % 4], 1.0),)
            engine.submit(edit(cat, lora=asked, num_inference_steps=2, stop_step=1, seed=1)).wait()
            if number % 50 == 49:
                wait_until(lambda: engine.watch.held == (0, 0))
                engine.final_latents.clear()
                alive.append(memory())
    adapters, tensors = zip(*alive, strict=True)
    assert max(adapters) <= len(ADAPTERS)
    assert tensors[1] < tensors[0] + served.largest(), "who holds one now and then is not always the same"


def memory() -> tuple[int, int]:
    """Adapters, and bytes of tensors."""
    gc.collect()
    objects = gc.get_objects()
    tensors = {each.data_ptr(): each.nbytes for each in objects if type(each) in (torch.Tensor, torch.nn.Parameter)}
    return sum(type(each) is Lora for each in objects), sum(tensors.values())


@one_family
def test_edits_whose_adapters_do_not_fit_together_take_turns(served: Served, photo: Callable[[str], bytes]) -> None:
    requests = [edit(photo("cat"), lora=((name, 1.0),), num_inference_steps=2) for name in ("all", "blocks", "all")]
    with engine_with(served, lora_bytes=served.largest()) as engine:
        made = together(engine, requests)
        shared = [set(batch) & {request.id for request in requests} for batch in engine.worker.batches]
        assert [len(each) for each in shared if each] == [2, 2, 1, 1]
        assert difference(made[1], engine.latents(replace(requests[1], id="again"))) <= BOUND
        with pytest.raises(BadRequest, match=r"^lora: 'all', 'blocks': .* MB: at most .* are allowed"):
            engine.submit(edit(photo("cat"), lora=(("all", 1.0), ("blocks", 1.0)))).wait()


@one_family
def test_segments_are_one_edit_as_long_as_the_files_are_the_same(
    served: Served, engine: TestEngine, photo: Callable[[str], bytes]
) -> None:
    whole = edit(photo("cat"), lora=(("all", 1.0),), num_inference_steps=4)
    first = engine.submit(replace(whole, id="first", stop_step=2)).wait()
    rest = replace(whole, start_step=2, latents=first.latents, adapters=first.timings["adapters"])
    assert difference(engine.latents(replace(rest, id="rest")), engine.latents(whole)) <= BOUND
    others: list[Asked] = [(), (("blocks", 1.0),), (("all", 0.5),), (("all", 1.0), ("blocks", 1.0))]
    for lora in others:
        with pytest.raises(BadRequest, match=r"^lora: not the adapters"):
            engine.submit(replace(rest, id="other", lora=lora)).wait()
    plain = engine.submit(replace(whole, id="plain", lora=(), stop_step=2)).wait()
    assert plain.timings["adapters"] == ""
    with pytest.raises(BadRequest, match=r"^lora: not the adapters"):
        engine.submit(replace(rest, id="added", adapters="")).wait()
    assert engine.submit(replace(rest, id="untold", adapters=None)).wait().image is not None


@one_family
def test_a_bad_adapter_is_refused_and_its_neighbours_are_as_without_it(
    served: Served, engine: TestEngine, crowd: list[EditRequest]
) -> None:
    bad = loras.diffusers_keys(loras.pairs(served.parts.transformer, ["0.attn.to_q"], seed=0))
    next(iter(bad.values()))[0, 0] = torch.nan
    loras.write(served.folder, "nan", bad)
    answer = engine.submit(edit(crowd[0].images[0], lora=(("nan", 1.0),)))
    missing = engine.submit(edit(crowd[0].images[0], lora=(("none", 1.0),)))
    neighbour = engine.latents(crowd[0])
    with pytest.raises(BadRequest, match=r"NaN or infinite weights of transformer_blocks\.0\.attn\.to_q"):
        answer.wait()
    with pytest.raises(BadRequest, match="'none': no adapter of this server: all, blocks, nan, times, tokens"):
        missing.wait()
    assert difference(neighbour, served.alone(engine, crowd[0])) <= BOUND
    (served.folder / "nan.safetensors").unlink()


@one_family
def test_a_server_without_a_folder_refuses_the_field_by_its_name(served: Served, photo: Callable[[str], bytes]) -> None:
    with engine_on(served.parts, reference_area=AREA) as engine:
        answer = engine.submit(edit(photo("cat"), lora=(("all", 1.0),)))
        with pytest.raises(BadRequest, match=r"^lora: 'all': this server has no adapters .* set LORA_DIR"):
            answer.wait()
