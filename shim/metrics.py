"""The shim's own Prometheus metrics; Triton serves the model's."""

from __future__ import annotations

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from starlette.responses import Response

EDIT_SECONDS = (0.5, 1, 2, 5, 10, 20, 40, 60, 90, 120, 180, 300)
disable_created_metrics()  # a series more for each, that no query here reads


class Metrics:
    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "shim_requests", "HTTP requests answered", ("route", "dialect", "status", "key"), registry=self.registry
        )
        self.request_seconds = Histogram(
            "shim_request_seconds",
            "Whole requests, upload and answer included, by how they ended",
            ("route", "status", "stream"),
            buckets=EDIT_SECONDS,
            registry=self.registry,
        )
        self.build = Gauge("shim_build_info", "What this shim is; always 1", ("version",), registry=self.registry)
        self.body_bytes = Counter("shim_request_body_bytes", "Bytes of request bodies received", registry=self.registry)
        self.edit_seconds = Histogram(
            "shim_edit_seconds", "Whole successful edits, upload excluded", buckets=EDIT_SECONDS, registry=self.registry
        )
        self.images_in = Counter("shim_input_images", "Images of successful edits", registry=self.registry)
        self.images_out = Counter("shim_output_images", "Images answered", registry=self.registry)
        self.edits_abandoned = Counter(
            "shim_edits_abandoned", "Edits dropped because their client went away", registry=self.registry
        )
        self.segments = Counter("shim_segments", "Segments of edits that Triton finished", registry=self.registry)
        self.segments_interrupted = Counter(
            "shim_segments_interrupted", "Segments that broke off and were sent again", registry=self.registry
        )
        self.edits_in_flight = Gauge("shim_edits_in_flight", "Edits that wait for an answer", registry=self.registry)

    def response(self) -> Response:
        return Response(generate_latest(self.registry), media_type=CONTENT_TYPE_LATEST)
