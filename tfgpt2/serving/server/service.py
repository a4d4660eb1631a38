"""A request from its tensors to its answer: the way that all faces of the server share."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from tfgpt2.serving.server.batching import Batcher
from tfgpt2.serving.server.metrics import Metrics
from tfgpt2.serving.server.models import Model, Models
from tfgpt2.serving.server.saved_model import Arrays, Servable, Signature
from tfgpt2.serving.server.settings import ServerSettings
from tfgpt2.serving.server.status import ServingError, invalid

LIMIT_INPUT = "max_new_tokens"


class Target(NamedTuple):
    """Which model a request names.

    Attributes:
        name: The model.
        version: Its version, or None.
        label: Its version's label, or None.
    """

    name: str
    version: int | None = None
    label: str | None = None


class Caller:
    """Calls a held version by signature name, for answers that take several calls.

    Args:
        service: Runs the calls.
        servable: The version.

    Attributes:
        servable: As given.
        rows: The most rows of a call.
        stream_tokens: Tokens of a stream's piece.
    """

    def __init__(self, service: Service, servable: Servable):
        self._service, self.servable = service, servable
        self.rows = service.settings.batching.max_batch_size
        self.stream_tokens = service.settings.stream_tokens

    async def __call__(self, signature: str, inputs: Arrays) -> Arrays:
        """Runs one call; see `Service.run`."""
        found = self.servable.signatures[signature]
        return await self._service.run(self.servable, found, inputs)


class Service:
    """Models, queue and counters of one server.

    Args:
        settings: What it was told.
    """

    def __init__(self, settings: ServerSettings):
        self.settings = settings
        self.batcher = Batcher(settings.batching, self._count_batch)
        self.metrics = Metrics(lambda: self.batcher.waiting, lambda: self.batcher.running)
        self.models = Models(
            {
                name: Model(name, path, settings.labels.get(name, {}), settings.keep_versions)
                for name, path in settings.models.items()
            },
            settings.poll_seconds,
        )

    @contextlib.contextmanager
    def lease(self, target: Target) -> Iterator[Servable]:
        """Holds the version that a request names; see `Model.lease`."""
        with self.models.get(target.name).lease(target.version, target.label) as servable:
            yield servable

    async def run(
        self, servable: Servable, signature: Signature, inputs: Arrays, timeout: float | None = None
    ) -> Arrays:
        """Checks limits and runs one request.

        Args:
            servable: A version that is held.
            signature: What is asked.
            inputs: All its inputs.
            timeout: Seconds it may take; None, or more than the server's limit, is that limit.

        Raises:
            ServingError: See `Batcher.run`; DEADLINE_EXCEEDED.
        """
        self.check_limits(inputs)
        limit = self.settings.timeout_seconds
        limit = limit if timeout is None else min(timeout, limit)
        try:
            return await asyncio.wait_for(self.batcher.run(servable, signature, inputs), limit)
        except asyncio.TimeoutError as error:
            raise ServingError(
                "DEADLINE_EXCEEDED", f"The request took longer than {limit:.3g} seconds."
            ) from error

    @contextlib.contextmanager
    def counted(self, api: str, model: str) -> Iterator[None]:
        """Counts a request, its outcome and its time.

        Args:
            api: `rest`, `grpc` or `completions`.
            model: Its model; an unknown name is not a label of its own, or anybody could fill the
                memory with labels.
        """
        model = model if model in self.settings.models else ""
        begin, code = time.perf_counter(), "OK"
        try:
            yield
        except ServingError as error:
            code = error.code
            raise
        except (asyncio.CancelledError, GeneratorExit):
            code = "CANCELLED"
            raise
        except BaseException:
            code = "INTERNAL"
            raise
        finally:
            self.metrics.requests.labels(api, model, code).inc()
            self.metrics.latency.labels(api, model).observe(time.perf_counter() - begin)

    async def close(self) -> None:
        """Finishes what runs, and watches no longer."""
        await self.batcher.close()
        await self.models.close()

    def check_limits(self, inputs: Arrays) -> None:
        """Checks what this server allows, whatever the model does.

        Raises:
            ServingError: INVALID_ARGUMENT.
        """
        asked = inputs.get(LIMIT_INPUT)
        most = self.settings.max_new_tokens
        if asked is not None and asked.size and asked.dtype != object and np.max(asked) > most:
            raise invalid(
                f"`{LIMIT_INPUT}` must be at most {most} on this server."
                f" Received: {int(np.max(asked))}.",
                param=LIMIT_INPUT,
            )

    def _count_batch(
        self, servable: Servable, signature: Signature, rows: int, padding: int, outputs: Arrays
    ) -> None:
        labels = (servable.name, signature.name)
        self.metrics.batch_rows.labels(*labels).observe(rows)
        self.metrics.padding.labels(*labels).inc(padding)
        if {"finish_reason", "num_tokens", "prompt_tokens"} <= outputs.keys():
            self.metrics.tokens.labels(servable.name).inc(int(outputs["num_tokens"][:rows].sum()))
            self.metrics.prompt_tokens.labels(servable.name).inc(
                int(outputs["prompt_tokens"][:rows].sum())
            )
