"""`Client`: text in and out of a model that a server holds."""

from __future__ import annotations

import concurrent.futures
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import urlsplit

from tfgpt2.errors import explain
from tfgpt2.serving.client import records, settings
from tfgpt2.serving.client.failures import (
    BadAnswer,
    ClientError,
    DeadlineExceeded,
    InvalidRequest,
    ModelNotFound,
    Place,
    ServerBusy,
    Unreachable,
)
from tfgpt2.serving.client.records import Generation, ServedModel, Tokens, VersionStatus
from tfgpt2.serving.client.retrying import attempt_within
from tfgpt2.serving.client.streaming import TextStream

_SCHEMES = ("http", "https", "grpc", "grpcs")
_LOOK_AGAIN = 0.2  # seconds between two looks at a server that is not ready
T = TypeVar("T")


class Client:
    """Talks with a model on TensorFlow Serving or on the local server.

    It may be shared by threads. REST needs httpx, gRPC needs grpcio; neither needs TensorFlow.

    Args:
        url: `http://host:8501`, `https://...`, `grpc://host:8500` or `grpcs://...`.
        model: Name of the model.
        version: Version of the model; None is the newest that the server has.
        signature: What `generate` runs: `"generate"`, or `"serving_default"`, which has the
            settings of the export and takes none.
        timeout: Seconds for one request, retries and pauses included.
        retries: How often a request is repeated that found no connection, or a server that is busy
            (429, 503, `UNAVAILABLE`, `RESOURCE_EXHAUSTED`). Nothing else is repeated.
        batch_size: Most rows of one request; longer lists are cut.
        concurrency: Most requests of one call at a time.
        api_key: Sent as a bearer token.
        transport: What httpx sends through, for tests and proxies; None is the network.

    Raises:
        ImportError: The library for this kind of URL is missing.
        ValueError: The URL or a number makes no sense.

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
        self._place = Place(_checked_url(url), model, version)
        for name, value, low in (
            ("timeout", timeout, 1e-3), ("retries", retries, 0), ("batch_size", batch_size, 1),
            ("concurrency", concurrency, 1),
        ):  # fmt: skip
            if not value >= low:
                raise ValueError(
                    explain(f"`{name}` is too small.", fix=f"Pass {low} or more.", **{name: value})
                )
        self._signature, self._timeout, self._retries = signature, timeout, retries
        self._batch_size, self._concurrency = batch_size, concurrency
        self._takes: frozenset[str] | None = None  # inputs of an export that has other ones
        self._transport = _transport(self._place, api_key, concurrency, transport)

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
                whatever the export's settings are: REST has no way to leave an input out.

        Returns:
            A `Generation`, or a list of them for a list. Where the export writes several texts for
            each prompt, a list of them is in place of each.

        Raises:
            ClientError: The request came to nothing.
            TypeError: A setting is unknown, or no number.
            ValueError: A value is out of range.
        """
        texts = settings.as_texts("prompts", prompts)
        signature = signature or self._signature
        if signature == "serving_default":
            settings.check_names([*options, *([] if stop is None else ["stop"])], (), signature)
            inputs = {}
        else:
            inputs = settings.columns(options, stop, len(texts))
        given = [name for name, value in (options | {"stop": stop}).items() if value is not None]
        found = self._generations(signature, {"text": texts} | inputs, given, len(texts))
        return _like(prompts, found)

    def stream(
        self,
        prompt: str | bytes,
        *,
        stop: str | Sequence[str] | None = None,
        chunk_tokens: int = 8,
        **options: Any,
    ) -> TextStream:
        """Continues one text and yields it piece by piece.

        TensorFlow Serving cannot stream; the client asks for a few tokens at a time and sends
        what it has got back as the prompt. A sampled text is another one than `generate` writes
        with the same seed, see `tfgpt2.serving.client.streaming`; and where the context is full,
        a stream forgets the beginning and goes on.

        Args:
            prompt: A string.
            stop: String or strings at which the text ends.
            chunk_tokens: Tokens of one request.
            **options: See `generate`; one value each.

        Returns:
            An iterator over pieces of text; see `TextStream` for what else it knows.

        Raises:
            ClientError: A request came to nothing (while iterating).
            TypeError: A setting is unknown, or `prompt` is no string.
            ValueError: A value is out of range.
        """
        if not isinstance(prompt, (str, bytes)):
            raise TypeError(
                explain("stream() continues one text.", fix="Use generate().", prompt=prompt)
            )
        if not chunk_tokens >= 1:
            raise ValueError(
                explain(
                    "`chunk_tokens` must be 1 or more.", fix="Pass 8.", chunk_tokens=chunk_tokens
                )
            )
        inputs = settings.columns(options, stop, 1)
        stops = [settings.as_bytes(one) for one in inputs.pop("stop")[0]]
        one_each = {name: column[0] for name, column in inputs.items()}

        def ask(text: bytes, values: Mapping[str, Any]) -> Generation:
            columns = {name: [value] for name, value in values.items()} | {"stop": [[""]]}
            found = self._generations("generate", {"text": [text]} | columns, options, 1)[0]
            if isinstance(found, list) or found.score is not None:
                what = "searches with beams or writes several texts: such texts do not stream"
                raise InvalidRequest(self._place, what)
            return found

        return TextStream(ask, settings.as_bytes(prompt), one_each, [s for s in stops if s],
                          chunk_tokens)  # fmt: skip

    def score(self, texts: str | bytes | Sequence[str | bytes]) -> Any:
        """Says how likely the model finds a text or several: a `Score` each."""
        return self._texts("score", texts, records.scores)

    def next_token(self, texts: str | bytes | Sequence[str | bytes]) -> Any:
        """Says which tokens the model expects after a text or several: `NextTokens` each."""
        return self._texts("next_token", texts, records.next_tokens)

    def inspect(self, texts: str | bytes | Sequence[str | bytes]) -> Any:
        """Says how likely each token of a text was, and what was likelier: `Inspection` each."""
        return self._texts("inspect", texts, records.inspections)

    def embed(self, texts: str | bytes | Sequence[str | bytes]) -> Any:
        """Turns a text or several into vectors: an `Embedding` each."""
        return self._texts("embed", texts, records.embeddings)

    def tokenize(self, texts: str | bytes | Sequence[str | bytes]) -> Any:
        """Cuts a text or several into tokens: `Tokens` each."""
        return self._texts("tokenize", texts, records.tokens)

    def detokenize(self, tokens: Tokens | Sequence[Any]) -> Any:
        """Turns tokens into text.

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
        found = self._rows("detokenize", {"ids": ids}, len(ids), lambda columns: columns["text"])
        return found[0] if alone else found

    # The server ------------------------------------------------------------------------------

    def predict(self, signature: str, inputs: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
        """Runs any signature as it is: one request, no cutting into batches.

        Args:
            signature: Its name.
            inputs: A list for each input, rows first.

        Returns:
            A list for each output, rows first. Outputs named `*_bytes` are bytes, others text.

        Raises:
            ClientError: The request came to nothing.
        """
        inputs = {name: list(column) for name, column in inputs.items()}
        return self._ask(lambda left: self._transport.predict(signature, inputs, left))

    def status(self) -> list[VersionStatus]:
        """Asks in which state the model's versions are."""
        return self._ask(self._transport.status)

    def wait_until_ready(self, timeout: float = 120.0) -> None:
        """Waits until the server can answer for this model: it starts, loads and compiles first.

        Args:
            timeout: Seconds to wait.

        Raises:
            DeadlineExceeded: It was not ready in time; the message says how far it was.
            ClientError: What waiting does not mend, such as a wrong key.
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
            time.sleep(min(_LOOK_AGAIN, max(0.0, deadline - time.monotonic())))
        raise DeadlineExceeded(self._place, f"was not ready within {timeout:.3g} s ({last})")

    def metadata(self) -> ServedModel:
        """Asks for the model's signatures."""
        return self._ask(self._transport.metadata)

    def _ask(self, operation: Callable[[float], T]) -> T:
        return attempt_within(operation, timeout=self._timeout, retries=self._retries)

    def _generations(
        self, signature: str, inputs: dict[str, list[Any]], given: Iterable[str], rows: int
    ) -> list[Generation]:
        """Asks for texts; an export may have fewer inputs than the contract, see `export`."""
        takes = self._takes if signature == "generate" else None
        fitting = inputs if takes is None else settings.fit(inputs, given, takes)
        try:
            return self._rows(signature, fitting, rows, records.generations)
        except InvalidRequest:
            try:
                known = self.metadata().signatures.get(signature)
            except ClientError:
                known = None  # then the refusal is all that can be said
            if known is None or known.inputs.keys() in (fitting.keys(), set()):
                raise
            self._takes = frozenset(known.inputs)
            fitting = settings.fit(inputs, given, self._takes)
        return self._rows(signature, fitting, rows, records.generations)

    def _texts(self, signature: str, texts: Any, read: Callable[[records.Columns], list[T]]) -> Any:
        rows = settings.as_texts("texts", texts)
        return _like(texts, self._rows(signature, {"text": rows}, len(rows), read))

    def _rows(
        self,
        signature: str,
        inputs: dict[str, list[Any]],
        rows: int,
        read: Callable[[records.Columns], list[T]],
    ) -> list[T]:
        """Sends columns in batches, several at a time, and returns the rows in order."""

        def send(start: int) -> list[T]:
            end = min(start + self._batch_size, rows)
            part = settings.rows_of(inputs, start, end, rows)
            columns = self._ask(lambda left: self._transport.predict(signature, part, left))
            try:
                found = read(columns)
            except (KeyError, IndexError, TypeError) as error:
                what = f"gave an answer of {signature!r} that the contract does not know: {error!r}"
                raise BadAnswer(self._place, what) from error
            if len(found) != end - start:
                what = f"gave {len(found)} rows for {end - start}"
                raise BadAnswer(self._place, what)
            return found

        starts = range(0, rows, self._batch_size)
        if len(starts) < 2:
            return [row for start in starts for row in send(start)]
        with concurrent.futures.ThreadPoolExecutor(self._concurrency) as pool:
            parts = [pool.submit(send, start) for start in starts]
            try:
                return [row for part in parts for row in part.result()]
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)  # what has not begun never will
                raise


def _like(given: Any, found: list[T]) -> Any:
    """One for one, a list for a list."""
    return found[0] if isinstance(given, (str, bytes)) else found


def _checked_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in _SCHEMES or not parts.netloc:
        raise ValueError(
            explain(
                "`url` must begin with http://, https://, grpc:// or grpcs:// and name a host.",
                fix="Pass 'http://localhost:8501' for REST, 'grpc://localhost:8500' for gRPC.",
                url=url,
            )
        )
    return url.rstrip("/")


def _transport(place: Place, api_key: str | None, concurrency: int, transport: Any) -> Any:
    """Imports just what this kind of URL needs."""
    try:
        if place.url.startswith("http"):
            from tfgpt2.serving.client.rest import RestTransport

            return RestTransport(place, api_key, concurrency, transport)
        from tfgpt2.serving.client.grpc_transport import GrpcTransport
    except ImportError as error:
        raise ImportError(
            explain(
                f"The client needs {error.name} for this URL.",
                fix="Run: pip install 'tfgpt2[client]'",
                url=place.url,
            )
        ) from error
    if transport is not None:
        raise ValueError(
            explain("`transport` is for http URLs.", fix="Leave it out.", url=place.url)
        )
    return GrpcTransport(place, api_key)
