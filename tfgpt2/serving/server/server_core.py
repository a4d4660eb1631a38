"""Running a request: models, batching, limits and metrics, shared by all APIs."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import NamedTuple

import numpy as np

from tfgpt2.serving.server.metrics import Metrics
from tfgpt2.serving.server.request_batcher import RequestBatcher
from tfgpt2.serving.server.saved_model import Servable
from tfgpt2.serving.server.serving_error import ServingError, invalid
from tfgpt2.serving.server.settings import ServerSettings
from tfgpt2.serving.server.signature import Arrays, Signature
from tfgpt2.serving.server.text_model import MAX_NEW_TOKENS, TextModel, count_tokens
from tfgpt2.serving.server.version_manager import ModelRegistry, VersionManager


class ModelSpec(NamedTuple):
    """The model that a request names.

    Attributes:
        name: The model.
        version: Its version, or None.
        label: The label of its version, or None.
    """

    name: str
    version: int | None = None
    label: str | None = None


class ServerCore:
    """Models, batcher and metrics of one server.

    Args:
        settings: Configuration of the server.
    """

    def __init__(self, settings: ServerSettings):
        self.settings = settings
        self.batcher = RequestBatcher(
            settings.batching, self._observe_batch, settings.max_body_bytes
        )
        self.metrics = Metrics(lambda: self.batcher.num_queued, lambda: self.batcher.num_running)
        self.models = ModelRegistry(
            {
                name: VersionManager(
                    name, path, settings.labels.get(name, {}), settings.keep_versions
                )
                for name, path in settings.models.items()
            },
            settings.poll_seconds,
        )

    def lease(self, spec: ModelSpec) -> AbstractContextManager[Servable]:
        """Leases the version that a request names; see `VersionManager.lease`."""
        return self.models.get(spec.name).lease(spec.version, spec.label)

    async def run(
        self, servable: Servable, signature: Signature, inputs: Arrays, timeout: float | None = None
    ) -> Arrays:
        """Checks limits and runs one request.

        Args:
            servable: A leased version.
            signature: The requested signature.
            inputs: All its inputs.
            timeout: Seconds it may take, at most those of the settings; None is that limit.

        Raises:
            ServingError: See `RequestBatcher.run`; DEADLINE_EXCEEDED.
        """
        self._check_limits(inputs)
        limit = self.settings.timeout_seconds
        limit = limit if timeout is None else min(timeout, limit)
        try:
            return await asyncio.wait_for(self.batcher.run(servable, signature, inputs), limit)
        except asyncio.TimeoutError as error:
            raise ServingError(
                "DEADLINE_EXCEEDED", f"The request took longer than {limit:.3g} seconds."
            ) from error

    def text_model(self, servable: Servable) -> TextModel:
        """Returns the signatures of a leased version by name."""

        async def run(name: str, inputs: Arrays) -> Arrays:
            return await self.run(servable, servable.signatures[name], inputs)

        return TextModel(run, servable.signatures, self.settings.batching.max_batch_size)

    @contextlib.contextmanager
    def measure(self, api: str, model: str) -> Iterator[None]:
        """Records the outcome and the latency of a request.

        Args:
            api: `rest`, `grpc` or `completions`.
            model: Its model. Unknown names share one label; otherwise clients could fill the
                memory with labels.
        """
        model = model if model in self.settings.models else ""
        start, code = time.perf_counter(), "OK"
        try:
            yield
        except BaseException as error:
            cancelled = isinstance(error, (asyncio.CancelledError, GeneratorExit))
            code = "CANCELLED" if cancelled else "INTERNAL"
            if isinstance(error, ServingError):
                code = error.code
            raise
        finally:
            self.metrics.requests.labels(api, model, code).inc()
            self.metrics.latency.labels(api, model).observe(time.perf_counter() - start)

    async def close(self) -> None:
        """Finishes what is queued and running, and stops watching."""
        await self.batcher.close()
        await self.models.close()

    def _check_limits(self, inputs: Arrays) -> None:
        given, limit = inputs.get(MAX_NEW_TOKENS), self.settings.max_new_tokens
        if given is None or given.dtype.kind not in "iuf":  # the signature's check rejects it
            return
        if not np.all(given <= limit):  # nor is NaN
            raise invalid(
                f"`{MAX_NEW_TOKENS}` must be at most {limit} on this server."
                f" Received: {np.max(given)}.",
                param=MAX_NEW_TOKENS,
            )

    def _observe_batch(
        self, servable: Servable, signature: Signature, rows: int, padding: int, outputs: Arrays
    ) -> None:
        labels = (servable.name, signature.name)
        self.metrics.batch_rows.labels(*labels).observe(rows)
        self.metrics.padding.labels(*labels).inc(padding)
        tokens = count_tokens(outputs, rows)
        if tokens is not None:
            self.metrics.tokens.labels(servable.name).inc(tokens[0])
            self.metrics.prompt_tokens.labels(servable.name).inc(tokens[1])
