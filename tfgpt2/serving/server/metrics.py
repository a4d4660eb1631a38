"""Metrics of a server, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """Counters, histograms and gauges of one server.

    Args:
        num_queued: Returns the number of requests in the queue.
        num_running: Returns the number of running batches.
    """

    def __init__(self, num_queued: Callable[[], int], num_running: Callable[[], int]):
        self._registry = CollectorRegistry()
        counter, histogram, gauge = (
            partial(kind, registry=self._registry) for kind in (Counter, Histogram, Gauge)
        )
        api, batch = ("api", "model"), ("model", "signature")
        self.requests = counter("tfgpt2_requests", "Answered requests.", (*api, "code"))
        self.latency = histogram(
            "tfgpt2_request_seconds", "Time from request to response.", api, buckets=_SECONDS
        )
        self.batch_rows = histogram(
            "tfgpt2_batch_rows", "Rows of a batch, without padding.", batch, buckets=_ROWS
        )
        self.padding = counter(
            "tfgpt2_padding_rows", "Rows added to reach an allowed batch size.", batch
        )
        self.tokens = counter("tfgpt2_generated_tokens", "Generated tokens.", ("model",))
        self.prompt_tokens = counter("tfgpt2_prompt_tokens", "Prompt tokens.", ("model",))
        gauge("tfgpt2_queue_depth", "Queued requests.").set_function(num_queued)
        gauge("tfgpt2_running_batches", "Running batches.").set_function(num_running)

    def render(self) -> bytes:
        """Returns all metrics in Prometheus' text format."""
        return generate_latest(self._registry)
