"""Running a request: models, batching, limits and metrics, shared by all APIs."""

from __future__ import annotations

import asyncio
import contextlib
import time
import weakref
from collections.abc import AsyncGenerator, Awaitable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import partial
from typing import NamedTuple, TypeVar

import numpy as np

from tfgpt2.serving.server import registry
from tfgpt2.serving.server.cancellation import gather, run_within
from tfgpt2.serving.server.engine_answers import generate_row, merge_rows, stream_row
from tfgpt2.serving.server.engine_scheduler import EngineScheduler, Round
from tfgpt2.serving.server.metrics import Metrics
from tfgpt2.serving.server.request_batcher import RequestBatcher, broadcast_rows, count_rows
from tfgpt2.serving.server.request_size import check_bytes, check_rows, full_bytes
from tfgpt2.serving.server.servable import Servable
from tfgpt2.serving.server.serving_error import ServingError, invalid
from tfgpt2.serving.server.settings import ServerSettings
from tfgpt2.serving.server.signature import Arrays, Signature
from tfgpt2.serving.server.streaming import TextChunk
from tfgpt2.serving.server.text_model import (
    GENERATE_IDS,
    MAX_NEW_TOKENS,
    STARTED_BY,
    TextModel,
    count_tokens,
    engine_signatures,
)
from tfgpt2.serving.server.version_manager import ModelRegistry, VersionManager

_ENGINE_THREADS = 2  # versions that generate at the same time
_Result = TypeVar("_Result")


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
        self._engine_threads = ThreadPoolExecutor(_ENGINE_THREADS, thread_name_prefix="engine")
        self._schedulers: weakref.WeakSet[EngineScheduler] = weakref.WeakSet()
        self.metrics = Metrics(
            lambda: self.batcher.num_queued + sum(one.num_waiting for one in self._schedulers),
            lambda: self.batcher.num_running + sum(one.is_running for one in self._schedulers),
        )
        self.models = ModelRegistry(
            {
                name: VersionManager(
                    name,
                    path,
                    settings.labels.get(name, {}),
                    settings.keep_versions,
                    load=partial(registry.load, slot_counts=settings.slot_counts),
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
        if signature.name in STARTED_BY and self._uses_engine(servable):
            work = self._run_on_engine(servable, signature, inputs)
        else:
            work = self.batcher.run(servable, signature, inputs)
        return await self._within(servable, work, timeout)

    def text_model(self, servable: Servable) -> TextModel:
        """Returns the signatures of a leased version by name."""
        signatures, stream, token_texts = servable.signatures, None, None
        if self._uses_engine(servable):
            signatures = engine_signatures(signatures)
            stream = partial(self._stream, servable, signatures)
            token_texts = self._scheduler(servable).token_texts

        async def run(name: str, inputs: Arrays) -> Arrays:
            return await self.run(servable, signatures[name], inputs)

        return TextModel(
            run, signatures, self.settings.batching.max_batch_size, stream, token_texts
        )

    async def _run_on_engine(
        self, servable: Servable, signature: Signature, inputs: Arrays
    ) -> Arrays:
        """Generates each row by itself."""
        signature.check(inputs)
        rows = count_rows(inputs)
        check_rows(rows, self.settings.batching.max_batch_size)
        check_bytes(full_bytes(inputs, rows), self.settings.max_body_bytes)
        if not rows:
            return signature.empty_outputs()
        inputs, scheduler = broadcast_rows(inputs, rows), self._scheduler(servable)
        outputs = await gather(
            generate_row(scheduler, signature, {n: x[row : row + 1] for n, x in inputs.items()})
            for row in range(rows)
        )
        return merge_rows(outputs)

    async def _stream(
        self, servable: Servable, signatures: Mapping[str, Signature], inputs: Arrays
    ) -> AsyncGenerator[TextChunk, None]:
        """Streams a row; each chunk may take as long as a request."""
        self._check_limits(inputs)
        signature = signatures[GENERATE_IDS if "ids" in inputs else "generate"]
        signature.check(inputs)
        chunks = stream_row(self._scheduler(servable), signature, inputs)
        async with contextlib.aclosing(chunks):
            while True:
                chunk = await self._within(servable, anext(chunks, None), None)
                if chunk is None:
                    return
                yield chunk

    async def _within(
        self, servable: Servable, work: Awaitable[_Result], timeout: float | None
    ) -> _Result:
        """Waits as long as a request may take; what is compiled meanwhile does not count."""
        own, clock = self.settings.timeout_seconds, servable.first_runs
        limit = own if timeout is None else min(timeout, own)
        most = float("inf") if timeout is None else timeout - limit
        begin = clock.seconds()
        try:
            return await run_within(work, limit, lambda: min(clock.seconds() - begin, most))
        except asyncio.TimeoutError as error:
            compiling = clock.seconds() - begin
            besides = f", besides {compiling:.3g} of compiling" if compiling else ""
            raise ServingError(
                "DEADLINE_EXCEEDED", f"The request took longer than {limit:.3g} seconds{besides}."
            ) from error

    def _uses_engine(self, servable: Servable) -> bool:
        return self.settings.engine and servable.has_engine

    def _scheduler(self, servable: Servable) -> EngineScheduler:
        if servable.scheduler is None:
            servable.scheduler = EngineScheduler(
                servable.make_engine(),
                servable.signatures,
                self.settings,
                self._engine_threads,
                partial(self._observe_round, servable.name),
            )
            self._schedulers.add(servable.scheduler)
        return servable.scheduler

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
        for scheduler in list(self._schedulers):
            await scheduler.close()
        self._engine_threads.shutdown(wait=False)
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

    def _observe_round(self, name: str, done: Round) -> None:
        self.metrics.batch_rows.labels(name, "engine_advance").observe(done.rows)
        self.metrics.padding.labels(name, "engine_advance").inc(done.slots - done.rows)
        self.metrics.tokens.labels(name).inc(done.tokens)
        self.metrics.prompt_tokens.labels(name).inc(done.prompt_tokens)
