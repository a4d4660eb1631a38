"""`Client`: requests to a model on a server."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import urlsplit

from tfgpt2.errors import type_error, value_error
from tfgpt2.extras import missing_extra
from tfgpt2.serving.client import records, request_settings
from tfgpt2.serving.client.exceptions import (
    BadAnswer,
    ClientError,
    DeadlineExceeded,
    Endpoint,
    InvalidRequest,
    ModelNotFound,
    ServerBusy,
    Unreachable,
)
from tfgpt2.serving.client.records import Generation, Row, ServedModel, Tokens, VersionStatus
from tfgpt2.serving.client.retrying import attempt_within
from tfgpt2.serving.client.streaming import TextStream

_SCHEMES = ("http", "https", "grpc", "grpcs")
_POLL_SECONDS = 0.2  # between two requests for the status of a server that is not ready
T = TypeVar("T")


class Client:
    """Client of a model on TensorFlow Serving or on the local server.

    Threads may share it. REST needs httpx, gRPC needs grpcio; neither needs TensorFlow.

    Args:
        url: `http://host:8501`, `https://...`, `grpc://host:8500` or `grpcs://...`.
        model: Name of the model.
        version: Version of the model; None is the newest that the server has.
        signature: Signature of `generate`: `"generate"`, or `"serving_default"`, which has the
            settings of the export and takes none.
        timeout: Seconds for one request, retries and pauses included.
        retries: Most repetitions of a request that found no connection or a busy server (429, 503,
            `UNAVAILABLE`, `RESOURCE_EXHAUSTED`). Nothing else is repeated.
        batch_size: Most rows of one request; longer lists are split.
        concurrency: Most simultaneous requests of one call.
        api_key: Sent as a bearer token.
        transport: Transport of httpx, for tests and proxies; None is the network.

    Raises:
        ImportError: The library for this kind of URL is missing.
        ValueError: The URL is malformed or a number is too small.

    Example:
        >>> import httpx
        >>> answer = {"outputs": {"ids": [[5, 6, 0]], "num_tokens": [2]}}
        >>> server = httpx.MockTransport(lambda request: httpx.Response(200, json=answer))
        >>> Client("http://localhost:8501", transport=server).tokenize("hi")
        Tokens(ids=[5, 6])
    """

    def __init__(
        self,
        url: str,
        model: str = "shakespeare-tiny",
        version: int | None = None,
        *,
        signature: str = "generate",
        timeout: float = 30.0,
        retries: int = 4,
        batch_size: int = 32,
        concurrency: int = 4,
        api_key: str | None = None,
        transport: Any = None,
    ) -> None:
        self._endpoint = Endpoint(_check_url(url), model, version)
        for name, value, low in (
            ("timeout", timeout, 1e-3), ("retries", retries, 0), ("batch_size", batch_size, 1),
            ("concurrency", concurrency, 1),
        ):  # fmt: skip
            if not value >= low:
                raise value_error(
                    f"`{name}` is too small.", fix=f"Pass {low} or more.", **{name: value}
                )
        self._signature, self._timeout, self._retries = signature, timeout, retries
        self._batch_size, self._concurrency = batch_size, concurrency
        self._served_inputs: frozenset[str] | None = None  # of an export with fewer inputs
        self._transport = _make_transport(self._endpoint, api_key, concurrency, transport)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections."""
        self._transport.close()

    # Text ------------------------------------------------------------------------------------

    def generate(
        self,
        prompts: str | bytes | Sequence[str | bytes],
        *,
        stop: Any = None,
        signature: str | None = None,
        **options: Any,
    ) -> Any:
        """Continues one text or several.

        Args:
            prompts: A string or strings.
            stop: String or strings at which a text ends; a list per prompt gives each its own.
            signature: See the class; None is the client's.
            **options: One value, or one per prompt, of `max_new_tokens` (64), `min_new_tokens`,
                `temperature` (0 is greedy), `top_k`, `top_p`, `min_p`, `repetition_penalty`,
                `seed` (prompt `i` uses `seed + i`; -1 is a fresh one). Those left out are off,
                whatever the export's settings are: REST requires all inputs.

        Returns:
            A `Generation`, or a list of them for a list. Where the export writes several texts for
            each prompt, a list of them is in place of each.

        Raises:
            ClientError: The request failed.
            TypeError: A setting is unknown, or not a number.
            ValueError: A value is out of range.
        """
        texts = request_settings.as_texts("prompts", prompts)
        signature = signature or self._signature
        if signature == "serving_default":
            request_settings.check_names(
                [*options, *([] if stop is None else ["stop"])], (), signature
            )
            inputs = {}
        else:
            inputs = request_settings.input_columns(options, stop, len(texts))
        given = [name for name, value in (options | {"stop": stop}).items() if value is not None]
        found = self._generate(signature, {"text": texts} | inputs, given, len(texts))
        return _one_or_list(prompts, found)

    def stream(
        self,
        prompt: str | bytes,
        *,
        stop: str | Sequence[str] | None = None,
        chunk_tokens: int = 8,
        **options: Any,
    ) -> TextStream:
        """Continues one text and yields it piece by piece.

        TensorFlow Serving cannot stream; the client requests a few tokens at a time and appends
        them to the prompt. A sampled text differs from that of `generate` with the same seed, see
        `tfgpt2.serving.client.streaming`; where the context is full, a stream drops its beginning
        and goes on.

        Args:
            prompt: A string.
            stop: String or strings at which the text ends.
            chunk_tokens: Tokens of one request.
            **options: See `generate`; one value each.

        Returns:
            An iterator over pieces of text; see `TextStream` for its attributes.

        Raises:
            ClientError: A request failed (while iterating).
            TypeError: A setting is unknown, or `prompt` is not a string.
            ValueError: A value is out of range.
        """
        if not isinstance(prompt, (str, bytes)):
            raise type_error("stream() continues one text.", fix="Use generate().", prompt=prompt)
        if not chunk_tokens >= 1:
            raise value_error(
                "`chunk_tokens` must be 1 or more.", fix="Pass 8.", chunk_tokens=chunk_tokens
            )
        inputs = request_settings.input_columns(options, stop, 1)
        stops = [request_settings.as_bytes(one) for one in inputs.pop("stop")[0] if one]
        settings = {name: column[0] for name, column in inputs.items()}

        def request(text: bytes, values: Mapping[str, Any]) -> Generation:
            columns = {name: [value] for name, value in values.items()} | {"stop": [[""]]}
            found = self._generate("generate", {"text": [text]} | columns, options, 1)[0]
            if isinstance(found, list) or found.score is not None:
                problem = "uses beam search or writes several texts, which cannot be streamed"
                raise InvalidRequest(self._endpoint, problem)
            return found

        return TextStream(request, request_settings.as_bytes(prompt), settings, stops, chunk_tokens)

    def score(self, texts: str | bytes | Sequence[str | bytes]) -> Any:
        """Scores one text or several: a `Score` each."""
        return self._read_texts("score", texts, records.Score.from_row)

    def next_token(self, texts: str | bytes | Sequence[str | bytes]) -> Any:
        """Predicts the tokens after one text or several: `NextTokens` each."""
        return self._read_texts("next_token", texts, records.NextTokens.from_row)

    def inspect(self, texts: str | bytes | Sequence[str | bytes]) -> Any:
        """Scores each token of one text or several, with alternatives: an `Inspection` each."""
        return self._read_texts("inspect", texts, records.Inspection.from_row)

    def embed(self, texts: str | bytes | Sequence[str | bytes]) -> Any:
        """Embeds one text or several: an `Embedding` each."""
        return self._read_texts("embed", texts, records.Embedding.from_row)

    def tokenize(self, texts: str | bytes | Sequence[str | bytes]) -> Any:
        """Tokenizes one text or several: `Tokens` each."""
        return self._read_texts("tokenize", texts, Tokens.from_row)

    def detokenize(self, tokens: Tokens | Sequence[Any]) -> Any:
        """Detokenizes one text or several.

        Args:
            tokens: `Tokens` or ids of one text, or a list of those.

        Returns:
            A string, or a list of them for a list of texts.
        """
        texts = [tokens] if isinstance(tokens, Tokens) else list(tokens)
        alone = isinstance(tokens, Tokens) or all(hasattr(one, "__index__") for one in texts)
        if alone and not isinstance(tokens, Tokens):
            texts = [texts]  # the ids of one text
        lists = [one.ids if isinstance(one, Tokens) else one for one in texts]
        width = max([1, *(len(ids) for ids in lists)])
        # Ids outside the vocabulary have no text.
        ids = [[*map(int, one), *[-1] * (width - len(one))] for one in lists]
        found = self._run("detokenize", {"ids": ids}, len(ids), lambda row: row["text"])
        return found[0] if alone else found

    # The server ------------------------------------------------------------------------------

    def run(self, signature: str, texts: str | bytes | Sequence[str | bytes]) -> Any:
        """Runs any signature of texts, in batches: its outputs by name for each text.

        Args:
            signature: Its name.
            texts: A string or strings.

        Returns:
            A dict, or a list of them for a list. Outputs named `*_bytes` are bytes, others text.

        Raises:
            ClientError: The request failed.
        """
        return self._read_texts(signature, texts, dict)

    def predict(self, signature: str, inputs: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
        """Runs any signature with any inputs, in a single request.

        Args:
            signature: Its name.
            inputs: A list for each input, rows first.

        Returns:
            A list for each output, rows first. Outputs named `*_bytes` are bytes, others text.

        Raises:
            ClientError: The request failed.
        """
        inputs = {name: list(column) for name, column in inputs.items()}
        return self._attempt(lambda left: self._transport.predict(signature, inputs, left))

    def status(self) -> list[VersionStatus]:
        """Requests the state of the model's versions."""
        return self._attempt(self._transport.status)

    def wait_until_ready(self, timeout: float = 120.0) -> None:
        """Waits until the server has loaded the model.

        Args:
            timeout: Seconds to wait.

        Raises:
            DeadlineExceeded: It was not ready in time; the message has its last state.
            ClientError: An error that does not pass by waiting, such as a wrong key.
        """
        deadline, last = time.monotonic() + timeout, "no answer"
        while (left := deadline - time.monotonic()) > 0:
            try:
                found = self._transport.status(min(left, self._timeout))
            except (Unreachable, ServerBusy, ModelNotFound, DeadlineExceeded) as error:
                last = error.problem
            else:
                last = ", ".join(f"version {one.version} is {one.state}" for one in found)
                if any(one.state == "AVAILABLE" for one in found):
                    return
            time.sleep(min(_POLL_SECONDS, max(0.0, deadline - time.monotonic())))
        raise DeadlineExceeded(self._endpoint, f"was not ready within {timeout:.3g} s ({last})")

    def metadata(self) -> ServedModel:
        """Requests the model's signatures."""
        model = self._attempt(self._transport.metadata)
        # Not TensorFlow's own, such as `__saved_model_init_op`.
        public = {n: one for n, one in model.signatures.items() if not n.startswith("__")}
        return dataclasses.replace(model, signatures=public)

    def _attempt(self, operation: Callable[[float], T]) -> T:
        return attempt_within(operation, timeout=self._timeout, retries=self._retries)

    def _generate(
        self, signature: str, inputs: dict[str, list[Any]], given: Iterable[str], rows: int
    ) -> list[Any]:
        """Runs `generate`; an export may have fewer inputs than the contract, see `export`."""
        served = self._served_inputs if signature == "generate" else None
        selected = (
            inputs if served is None else request_settings.select_inputs(inputs, given, served)
        )
        try:
            return self._run(signature, selected, rows, Generation.from_row)
        except InvalidRequest:
            try:
                known = self.metadata().signatures.get(signature)
            except ClientError:
                known = None  # then the refusal is all there is to report
            if known is None or known.inputs.keys() in (selected.keys(), set()):
                raise
            self._served_inputs = frozenset(known.inputs)
            selected = request_settings.select_inputs(inputs, given, self._served_inputs)
        return self._run(signature, selected, rows, Generation.from_row)

    def _read_texts(self, signature: str, texts: Any, read_row: Callable[[Row], T]) -> Any:
        column = request_settings.as_texts("texts", texts)
        found = self._run(signature, {"text": column}, len(column), read_row)
        return _one_or_list(texts, found)

    def _run(
        self,
        signature: str,
        inputs: dict[str, list[Any]],
        rows: int,
        read_row: Callable[[Row], T],
    ) -> list[T]:
        """Sends columns in batches, several at a time, and returns the rows in order."""

        def send(start: int) -> list[T]:
            end = min(start + self._batch_size, rows)
            part = request_settings.slice_rows(inputs, start, end, rows)
            columns = self._attempt(lambda left: self._transport.predict(signature, part, left))
            try:
                outputs = zip(*columns.values(), strict=True)
                found = [read_row(dict(zip(columns, row, strict=True))) for row in outputs]
            except (KeyError, IndexError, TypeError, ValueError) as error:
                problem = f"gave outputs of {signature!r} that are not in the contract: {error!r}"
                raise BadAnswer(self._endpoint, problem) from error
            if len(found) != end - start:
                problem = f"gave {len(found)} rows for {end - start}"
                raise BadAnswer(self._endpoint, problem)
            return found

        starts = range(0, rows, self._batch_size)
        if len(starts) < 2:
            return [row for start in starts for row in send(start)]
        with concurrent.futures.ThreadPoolExecutor(self._concurrency) as pool:
            parts = [pool.submit(send, start) for start in starts]
            try:
                return [row for part in parts for row in part.result()]
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)  # drops what has not begun
                raise


def _one_or_list(given: Any, found: list[T]) -> Any:
    """The record of a single text, or the list of records."""
    return found[0] if isinstance(given, (str, bytes)) else found


def _check_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in _SCHEMES or not parts.netloc:
        problem = "`url` must begin with http://, https://, grpc:// or grpcs:// and name a host."
        fix = "Pass 'http://localhost:8501' for REST, 'grpc://localhost:8500' for gRPC."
        raise value_error(problem, fix=fix, url=url)
    return url.rstrip("/")


def _make_transport(
    endpoint: Endpoint, api_key: str | None, concurrency: int, transport: Any
) -> Any:
    """Imports only the library that this kind of URL needs."""
    try:
        if endpoint.url.startswith("http"):
            from tfgpt2.serving.client.rest_transport import RestTransport

            return RestTransport(endpoint, api_key, concurrency, transport)
        from tfgpt2.serving.client.grpc_transport import GrpcTransport
    except ImportError as error:
        what = f"The client for {endpoint.url}"
        raise missing_extra(what, "client", error.name or "httpx") from error
    if transport is not None:
        raise value_error("`transport` is for http URLs.", fix="Leave it out.", url=endpoint.url)
    return GrpcTransport(endpoint, api_key)
