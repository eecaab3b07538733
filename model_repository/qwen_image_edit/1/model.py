"""Triton's side of the model: requests in, answers out. Everything else is in `qwen_edit/`."""

from __future__ import annotations

import json
import logging
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import triton_python_backend_utils as pb_utils
from qwen_edit.control.batches import Batch, parse_rows, stacked
from qwen_edit.control.blame import Blame
from qwen_edit.control.cancellations import Cancellations
from qwen_edit.control.exclusive import Exclusive
from qwen_edit.control.private_folder import NotPrivate, private_folder
from qwen_edit.errors import BadRequest, Cancelled, Draining, EditError, Failed, QueueFull, UnknownPictures
from qwen_edit.hints import asks_about, hints
from qwen_edit.loading.checkpoint import LoadError, find
from qwen_edit.loading.environment import prepare
from qwen_edit.metrics.families import EngineMetrics
from qwen_edit.request import TENSORS, cancelled
from qwen_edit.settings import Settings
from qwen_edit.settings_grammar import SettingsError

if TYPE_CHECKING:
    from qwen_edit.families.family import Size
    from qwen_edit.job import Outcome
    from qwen_edit.request import EditRequest

log = logging.getLogger("image_edit_server")

# Attributes of TritonError, which Triton adds to pb_utils only after this file is imported.
ERROR_CODES = {
    BadRequest: "INVALID_ARG",
    UnknownPictures: "NOT_FOUND",
    QueueFull: "UNAVAILABLE",
    Draining: "UNAVAILABLE",
    Cancelled: "CANCELLED",
    Failed: "INTERNAL",
}

# An instance whose execute() has returned looks idle to Triton, whatever its engine holds. Beside others, it returns
# this many seconds later, so that what arrives at the same moment goes to them.
SPREAD_SECONDS = 0.005


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        try:
            settings = Settings.from_environment(parameters=_parameters(args))
        except SettingsError as error:
            raise pb_utils.TritonModelException(str(error)) from None
        _configure_logging(settings.log_level)
        # What these say at import is about each other, not about this model.
        logging.getLogger("torch.utils._pytree").setLevel(logging.ERROR)
        prepare(os.environ, torch_threads=settings.torch_threads)
        try:
            checkpoint = find(settings.model_dir)
            # Without a supervisor the instances of one server find each other by its process id.
            folder = settings.control_dir or f"{tempfile.gettempdir()}/qwen-edit-{os.getppid()}"
            self._folder = private_folder(Path(folder))
            from qwen_edit.control.noted import Noted
            from qwen_edit.engine import Engine
            from qwen_edit.loading.identity import identity
            from qwen_edit.loading.load import instance_device, load
            from qwen_edit.loading.lora_files import LoraFiles
            from qwen_edit.pictures.decoders import Decoders
            from qwen_edit.pictures.images import SPARE
            from qwen_edit.worker import PipelineWorker

            device = instance_device(args["model_instance_kind"], args["model_instance_device_id"])
            loaded = load(checkpoint, settings, device)
            limits = settings.limits
            sizes = loaded.sizes
            needed_pixels = max(limits.pixels, sizes.reference_area, sizes.answer_pixels // SPARE)
            decoders = Decoders(limits.input_pixels, needed_pixels)
        except (LoadError, NotPrivate) as error:
            raise pb_utils.TritonModelException(str(error)) from None
        self._cancellations = Cancellations(self._folder / "cancelled")
        blame = Blame(self._folder, args["model_instance_name"])
        self._instances = _instances(args)
        self._spread_seconds = SPREAD_SECONDS if self._instances > 1 else 0.0
        self._limits = limits
        self._max_jobs = settings.max_jobs
        self._lora_files = LoraFiles(settings.lora_dir) if settings.lora_dir else None
        self._loaded = loaded
        self._metrics = EngineMetrics(
            TritonMetrics(), args["model_instance_name"], max_jobs=settings.max_jobs,
            about=identity(settings, checkpoint, str(device)),
        )  # fmt: skip
        worker = PipelineWorker(
            loaded.pipeline,
            loaded.sizes,
            decoders,
            cache_bytes=settings.cache_bytes(on_gpu=device.type == "cuda"),
            prefix_bytes=loaded.prefix_bytes,
            lora_files=self._lora_files,
            lora_bytes=settings.lora_cache_mb * 2**20,
            mrope=settings.vl_positions == "mrope",
            takes_turns=loaded.takes_turns,
            replicas=loaded.replicas,
        )
        self._engine = Engine(
            Noted(worker, blame), self._metrics, max_jobs=settings.max_jobs, stretch=settings.stretch, blame=blame,
            max_batch_tokens=settings.max_batch_tokens * settings.gpus_per_instance,
        )  # fmt: skip

    def execute(self, requests: list[Any]) -> None:
        """Hands every request to the engine, which answers through its response sender when the edit is done."""
        for request in requests:
            reply = TritonReply(request, self._cancellations)
            try:
                self._heed_drain()
                tensors = {
                    name: tensor.as_numpy()
                    for name in TENSORS
                    if (tensor := pb_utils.get_input_tensor_by_name(request, name)) is not None
                }
                parameters = _text(request.parameters)
                if asks_about(parameters):
                    reply.about(self._loaded.about(self._lora_files.names() if self._lora_files else []))
                    continue
                if (unwanted := cancelled(tensors)) is not None:
                    self._cancellations.add(unwanted)
                    reply.nothing()
                    continue
                edits = parse_rows(
                    tensors, self._limits, self._loaded.defaults, request_id=_text(request.request_id),
                    now=time.monotonic(), unix_now=time.time(), hints=hints(parameters, instances=self._instances),
                    max_rows=self._max_jobs,
                )  # fmt: skip
                self._submit(edits, reply)
                time.sleep(self._spread_seconds)
            except (BadRequest, Failed) as error:
                self._metrics.edit("refused")
                reply.error(error)
            except EditError as error:
                reply.error(error)
            except Exception:
                log.exception("a request could not be read")
                reply.error(Failed("the request could not be read"))

    def _submit(self, edits: list[EditRequest], reply: TritonReply) -> None:
        """All of them or none: where one is refused, the request is, and those before it are not wanted any more."""
        if len(edits) == 1:
            self._engine.submit(edits[0], reply)
            return
        for edit, row in zip(edits, Batch(reply, len(edits)).rows(), strict=True):
            try:
                self._engine.submit(edit, row)
            except EditError as error:
                row.error(error)
                if isinstance(error, BadRequest | Failed):
                    self._metrics.edit("refused")
                return

    def is_ready(self) -> bool:
        """Whether new edits should be sent here. Triton asks from 26.03 on, for its own ready endpoints."""
        try:
            self._heed_drain()
        except NotPrivate:
            return False
        return not self._engine.draining and self._metrics.alive

    def finalize(self) -> None:
        self._engine.close()

    def _heed_drain(self) -> None:
        if (private_folder(self._folder) / "draining").exists():
            self._engine.drain()


class TritonReply:
    """One request's answer, sent once, whatever threads ask and answer."""

    def __init__(self, request: Any, cancellations: Cancellations) -> None:
        self._id = _text(request.request_id)
        self._sender = Exclusive(request.get_response_sender())
        self._cancellations = cancellations
        self._answered = False
        self._lock = threading.Lock()  # guards both: Triton dies, with all edits, of who asks about what is answered

    def nothing(self) -> None:
        self._send_tensors({})

    def sized(self, size: Size) -> None:
        """One picture may have any."""

    def outcome(self, outcome: Outcome) -> None:
        self.outcomes([outcome])

    def outcomes(self, outcomes: Sequence[Outcome]) -> None:
        rows = []
        for outcome in outcomes:
            request = outcome.request
            outputs = {
                "image": outcome.image,
                "alpha": outcome.alpha,
                "layers": outcome.layers,
                "latents": outcome.latents,
                "history": outcome.history,
                "preview_image": outcome.preview,
                "step": np.array([outcome.step], np.int32),
                "num_inference_steps": np.array([request.num_inference_steps], np.int32),
                "true_cfg_scale": np.array([request.true_cfg_scale], np.float32),
                "seed": np.array([request.seed], np.int64),
                "timings": np.array([json.dumps(outcome.timings).encode()], np.object_),
            }
            rows.append(outputs)
        self._send_tensors(stacked(rows))

    def about(self, about: str) -> None:
        outputs = {"about": np.array([[about.encode()]], np.object_)}
        self._send_tensors(outputs)

    def error(self, error: EditError) -> None:
        code = getattr(pb_utils.TritonError, ERROR_CODES[type(error)])
        self._send(pb_utils.InferenceResponse(error=pb_utils.TritonError(error.message, code)))

    def cancelled(self) -> bool:
        with self._lock:
            return not self._answered and (
                bool(self._sender.is_cancelled()) or (self._id != "" and self._cancellations.take(self._id))
            )

    def _send_tensors(self, outputs: dict[str, Any]) -> None:
        tensors = [pb_utils.Tensor(name, np.ascontiguousarray(value)) for name, value in outputs.items()]
        self._send(pb_utils.InferenceResponse(output_tensors=tensors))

    def _send(self, response: Any) -> None:
        with self._lock:
            self._answered = True
            self._sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)


class TritonMetrics:
    """Makes series on Triton's own /metrics."""

    def __init__(self) -> None:
        self._families: dict[str, Any] = {}  # Triton deletes a family that nothing refers to, under its living metrics

    def __call__(
        self, name: str, description: str, kind: str, labels: Mapping[str, str], buckets: Sequence[float] = ()
    ) -> Any:
        if name not in self._families:
            kind = getattr(pb_utils.MetricFamily, kind)
            self._families[name] = pb_utils.MetricFamily(name=name, description=description, kind=kind)
        options = {"buckets": list(buckets)} if buckets else {}
        return Exclusive(self._families[name].Metric(labels=dict(labels), **options))


def _text(ask: Callable[[], object]) -> str:
    """What Triton says; empty where it is not UTF-8, which its HTTP front end lets through."""
    try:
        return str(ask())
    except UnicodeDecodeError:
        return ""


def _instances(args: dict[str, str]) -> int:
    """Instances of this model on this server."""
    groups = json.loads(args["model_config"])["instance_group"]
    return sum(group["count"] * max(1, len(group.get("gpus", []))) for group in groups)


def _parameters(args: dict[str, str]) -> dict[str, str]:
    """config.pbtxt's `parameters`, name → text."""
    parameters = json.loads(args["model_config"]).get("parameters", {})
    return {name: value["string_value"] for name, value in parameters.items()}


def _configure_logging(level: str) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s - %(name)s - %(levelname)s - %(message)s", "%Y-%m-%d %H:%M:%S"))
    log.handlers = [handler]
    log.setLevel(level)
    log.propagate = False
