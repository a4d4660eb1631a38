"""What a server counts, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """A server's counters; each server has its own.

    Args:
        waiting: Tells how many requests are in the queue.
        running: Tells how many batches are under way.
    """

    def __init__(self, waiting: Callable[[], int], running: Callable[[], int]):
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "tfgpt2_requests", "Requests that were answered.", ("api", "model", "code"),
            registry=self._registry,
        )  # fmt: skip
        self.latency = Histogram(
            "tfgpt2_request_seconds", "From the request to its answer.", ("api", "model"),
            buckets=_SECONDS, registry=self._registry,
        )  # fmt: skip
        self.batch_rows = Histogram(
            "tfgpt2_batch_rows", "Rows of a batch, without padding.", ("model", "signature"),
            buckets=_ROWS, registry=self._registry,
        )  # fmt: skip
        self.padding = Counter(
            "tfgpt2_padding_rows", "Rows added to reach an allowed batch size.",
            ("model", "signature"), registry=self._registry,
        )  # fmt: skip
        self.tokens = Counter(
            "tfgpt2_generated_tokens", "Tokens that were generated.", ("model",),
            registry=self._registry,
        )  # fmt: skip
        self.prompt_tokens = Counter(
            "tfgpt2_prompt_tokens", "Tokens of prompts that were read.", ("model",),
            registry=self._registry,
        )  # fmt: skip
        queue = Gauge("tfgpt2_queue_depth", "Requests that wait.", registry=self._registry)
        queue.set_function(waiting)
        batches = Gauge("tfgpt2_running_batches", "Batches under way.", registry=self._registry)
        batches.set_function(running)

    def page(self) -> bytes:
        """All figures in Prometheus' text form."""
        return generate_latest(self._registry)
