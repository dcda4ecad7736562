"""Figures of the server for Prometheus. No label comes from a request: routes and reasons are names of ours."""

from collections.abc import Callable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_IMAGES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """What is counted, each server for itself."""

    def __init__(self) -> None:
        disable_created_metrics()
        self.registry = registry = CollectorRegistry()
        self.requests = Counter("vitrail_requests", "Requests answered.", ("route", "status"), registry=registry)
        self.seconds = Histogram(
            "vitrail_request_seconds", "From headers to answer.", registry=registry, buckets=_SECONDS
        )
        self.stages = Histogram(
            "vitrail_stage_seconds", "Of a request.", ("stage",), registry=registry, buckets=_SECONDS
        )
        self.batches = Histogram(
            "vitrail_batch_images", "Images computed together.", registry=registry, buckets=_IMAGES
        )
        self.rejected = Counter("vitrail_rejected", "Requests refused, by reason.", ("reason",), registry=registry)
        self.restarts = Counter("vitrail_child_restarts", "Processes replaced.", ("kind",), registry=registry)
        self.model = Gauge("vitrail_model_info", "1; the labels say which.", ("name", "version"), registry=registry)
        self.restarts.labels("decoder")
        ProcessCollector(registry=registry)

    def watch(self, name: str, text: str, value: Callable[[], float]) -> None:
        """A gauge whose value is asked for when it is read."""
        Gauge(name, text, registry=self.registry).set_function(value)

    def text(self) -> bytes:
        """All of it in the text format of Prometheus."""
        return generate_latest(self.registry)
