"""Text in, text out from an exported folder, without TensorFlow: `LiteRTGenerator`."""

from __future__ import annotations

import codecs
import os
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

from tfgpt2.errors import type_error, unreadable, value_error
from tfgpt2.files import read_json_object
from tfgpt2.generation.stop_lists import stop_lists, to_bytes
from tfgpt2.litert import contract as files
from tfgpt2.litert.contract import Contract, read_token_texts
from tfgpt2.litert.engine import Engine
from tfgpt2.litert.sampling import choose_token, log_probability
from tfgpt2.litert.settings import default_settings, merge, rows
from tfgpt2.litert.texts import Continuation
from tfgpt2.serving.client.records import Score
from tfgpt2.text.generation import Generation
from tfgpt2.validation import check_choice, check_count

_POLICIES = ("error", "truncate_left")
_MOST_NATS = 80.0  # of a perplexity, as in `generation.scoring`


class LiteRTGenerator:
    """Continues texts with a folder that `TextGenerator.export_litert` wrote.

    It imports NumPy, `tokenizers` and `ai-edge-litert`, and not TensorFlow. In float32 its tokens
    are those of the `TextGenerator` for the same settings and seed.

    Args:
        contract: The folder's contract.
        engine: The loaded model.
        tokenizer: Text to ids, of the `tokenizers` library.
        texts: The text of every id.
        defaults: Default settings, see `settings.default_settings`.
        on_long_prompt: See `TextGenerator`.

    Example:
        >>> LiteRTGenerator.from_pretrained("no/such/folder")
        Traceback (most recent call last):
        FileNotFoundError: The folder holds no LiteRT export: it has no litert.json. ...
    """

    def __init__(
        self,
        contract: Contract,
        engine: Engine,
        tokenizer: tokenizers.Tokenizer,
        texts: Any,
        defaults: dict[str, Any],
        on_long_prompt: str,
    ) -> None:
        self.contract, self.on_long_prompt = contract, on_long_prompt
        self._engine, self._tokenizer = engine, tokenizer
        self._texts, self._defaults = texts, defaults

    @classmethod
    def from_pretrained(
        cls,
        folder: str | os.PathLike[str],
        *,
        threads: int | None = None,
        on_long_prompt: str | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
    ) -> LiteRTGenerator:
        """Loads an exported folder.

        Args:
            folder: The folder.
            threads: Threads of a step; None is one per core.
            on_long_prompt: See `TextGenerator`; None is what the export says.
            cache_dir: Where the runtime stores its own form of the weights, as large as
                `model.tflite`, which later processes map; None is the user's cache folder. Where
                nothing can be written, it takes memory instead.

        Raises:
            FileNotFoundError: The folder, or one of its files, does not exist.
            ValueError: It is no such export, damaged, or the runtime cannot run it.
            ImportError: `ai-edge-litert` is not installed.
        """
        folder = Path(folder)
        check_count("threads", threads, 1)
        if on_long_prompt is not None:
            check_choice("on_long_prompt", on_long_prompt, _POLICIES)
        contract = Contract.read(folder)
        config = read_json_object(folder / files.GENERATION_CONFIG, "generation configuration")
        return cls(
            contract,
            Engine(folder, contract, threads=threads, cache_dir=cache_dir),
            _read_tokenizer(folder / files.TOKENIZER),
            read_token_texts(folder, contract.vocab_size),
            default_settings(config),
            on_long_prompt or contract.on_long_prompt,
        )

    def generate(
        self,
        prompts: str | Sequence[str],
        *,
        stop: str | Sequence[str] | Sequence[Sequence[str]] | None = None,
        details: bool = False,
        **options: Any,
    ) -> Any:
        """Continues one text or several; see `TextGenerator.generate`.

        Args:
            prompts: A string or strings. More than the export's `batch_size` run in parts.
            stop: String or strings at which a text ends, or a list per prompt.
            details: Return `Generation` records in place of strings.
            **options: `max_new_tokens`, `min_new_tokens`, `temperature`, `top_k`, `top_p`, `min_p`,
                `repetition_penalty`, `seed` and `do_sample`; one value or one per prompt.

        Returns:
            The continuation(s): one for a string, a list for several.

        Raises:
            TypeError: `prompts` are not strings, or an option is unknown.
            ValueError: A value is out of range, or a prompt cannot run.
        """
        texts = _as_bytes(prompts)
        requests = self._requests(texts, options, stop)
        records = []
        for group in self._groups(requests):
            found = [Continuation() for _ in group]
            for _ in self._steps(group, found):
                pass
            records += map(self._record, group, found)
        values: list[Any] = records if details else [record.text for record in records]
        return values[0] if isinstance(prompts, (str, bytes)) else values

    def stream(
        self, prompt: str, *, stop: str | Sequence[str] | None = None, **options: Any
    ) -> Generator[str, None, int]:
        """Continues one text and yields it piece by piece; see `TextGenerator.stream`.

        Args:
            prompt: A string.
            stop: See `generate`.
            **options: See `generate`.

        Yields:
            Pieces of text; joined, what `generate` returns.

        Returns:
            The number of tokens, as the generator's value.

        Raises:
            TypeError: `prompt` is not a string, or an option is unknown.
            ValueError: A value is out of range, or the prompt cannot run.
        """
        if not isinstance(prompt, (str, bytes)):
            raise type_error(
                "stream() continues one text.", fix="Use generate() for several.", prompt=prompt
            )
        (request,) = self._requests(_as_bytes(prompt), options, stop)
        return self._pieces(request)

    def score(self, texts: str | Sequence[str]) -> Any:
        """Scores texts under the model.

        Args:
            texts: A string or strings. What exceeds the context is dropped on the left.

        Returns:
            A `tfgpt2.serving.client.records.Score` for a string, a list for several.

        Raises:
            TypeError: They are not strings.
            ValueError: A text has a token that the model lacks.
        """
        ids = [self._encode(text, number) for number, text in enumerate(_as_bytes(texts))]
        size, scores = self.contract.batch_size, []
        for first in range(0, len(ids), size):
            group = ids[first : first + size]
            kept = [self._keep(one, self.contract.context) for one in group]
            kept = [one or [self.contract.start_id or 0] for one in kept]
            with self._engine.texts(kept, self.contract.context) as reading:
                logprobs = reading.score()
            for row, one in enumerate(kept):
                found = logprobs[row, logprobs.shape[1] - len(one) :].tolist()
                scores.append(_score(found, max(0, len(group[row]) - len(one))))
        return scores[0] if isinstance(texts, (str, bytes)) else scores

    def _requests(self, texts: list[bytes], options: dict[str, Any], stop: Any) -> list[_Request]:
        """Checks what a user asked for, and tokenizes the prompts."""
        values = merge(self._defaults, options)
        stops = stop_lists("stop", self.contract.stop_strings if stop is None else stop, len(texts))
        requests = []
        for number, settings in enumerate(rows(values, len(texts))):
            ids = self._encode(texts[number], number)
            most = int(settings.pop("max_new_tokens"))
            kept = self._fit(ids, most, number)
            limit = min(most, self.contract.context - len(kept))
            dropped = max(0, len(ids) - len(kept))
            requests.append(_Request(kept, dropped, limit, settings, stops[number]))
        return requests

    def _encode(self, text: bytes, number: int) -> list[int]:
        """The ids of a text, and those before every text.

        Raises:
            ValueError: The model has no embedding for one.
        """
        encoded = self._tokenizer.encode(text.decode("utf-8", "replace"), add_special_tokens=False)
        if max(encoded.ids, default=0) >= self.contract.vocab_size:
            raise value_error(
                "The prompt has a token that the model has no embedding for.",
                fix="Leave it out.",
                prompt_number=number,
                model_vocab_size=self.contract.vocab_size,
            )
        return [*self.contract.prefix_ids, *encoded.ids]

    def _keep(self, ids: list[int], most: int) -> list[int]:
        """At most so many ids of a text: what stands before every text, and the end."""
        first = min(len(self.contract.prefix_ids), most)
        return ids if len(ids) <= most else ids[:first] + ids[len(ids) - most + first :]

    def _fit(self, ids: list[int], max_new_tokens: int, number: int) -> list[int]:
        """The part of a prompt that fits; as `tfgpt2.text.prompts.make_prompt`.

        Raises:
            ValueError: It is empty without a start token, or leaves no room.
        """
        context = self.contract.context
        if self.on_long_prompt == "truncate_left":
            most = max(context - max(max_new_tokens, 1), (context + 1) // 2)
            ids = self._keep(ids, most)
        if len(ids) >= context:
            raise value_error(
                f"The prompt leaves no room in the model's context of {context} tokens.",
                fix="Shorten it, or load the folder with on_long_prompt='truncate_left'.",
                prompt_number=number,
            )
        if ids:
            return ids
        if self.contract.start_id is None:
            raise value_error(
                "The prompt is empty and the model has no start token to begin from.",
                fix="Give at least one character that the vocabulary knows.",
                prompt_number=number,
            )
        return [self.contract.start_id]

    def _groups(self, requests: list[_Request]) -> Iterator[list[_Request]]:
        """Divides requests into batches whose prompts and continuations share the columns."""
        group: list[_Request] = []
        for request in requests:
            more = [*group, request]
            columns = max(len(one.ids) for one in more) + max(one.limit for one in more)
            if group and (len(more) > self.contract.batch_size or columns > self.contract.context):
                yield group
                more = [request]
            group = more
        if group:
            yield group

    def _steps(self, group: list[_Request], found: list[Continuation]) -> Iterator[None]:
        """Generates until every text has ended, and pauses after each token."""
        for request, text in zip(group, found, strict=True):
            text.reason = "" if request.limit > 0 else "length"
        if all(text.reason for text in found):
            return
        ends = self.contract.eos_token_ids
        with self._engine.texts([request.ids for request in group]) as reading:
            logits = reading.read()  # [B, V]
            while True:
                tokens = np.zeros(self.contract.batch_size, np.int32)
                for row, (request, text) in enumerate(zip(group, found, strict=True)):
                    if not text.reason:
                        request.advance(logits[row], text, self._texts, ends)
                        tokens[row] = text.tokens[-1] if text.tokens else 0
                yield
                if all(text.reason for text in found):
                    return
                logits = reading.step(tokens)

    def _pieces(self, request: _Request) -> Generator[str, None, int]:
        """Yields the text that can no longer change; its value is the number of tokens."""
        text, done = Continuation(), 0
        held_back = max(0, max(map(len, request.stop), default=0) - 1)  # might begin a stop string
        utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")
        for _ in self._steps([request], [text]):
            shown = text.shown(self._texts, 0 if text.reason else held_back)
            piece = utf8.decode(shown[done:], final=bool(text.reason))
            done = max(done, len(shown))
            if piece:
                yield piece
        return len(text.tokens)

    def _record(self, request: _Request, text: Continuation) -> Generation:
        shown = text.shown(self._texts)
        return Generation(
            text=shown.decode("utf-8", "replace"),
            text_bytes=shown,
            token_ids=text.tokens,
            prompt_tokens=len(request.ids),
            truncated=request.truncated,
            logprob=float(np.sum(np.asarray(text.logprobs, np.float32))),
            token_logprobs=text.logprobs,
            finish_reason=text.reason,
            tokens=[self._texts.written[token] for token in text.tokens],
        )


class _Request:
    """A prompt and its settings.

    Args:
        ids: The prompt.
        truncated: Tokens that were dropped on the left.
        limit: Most new tokens.
        settings: See `settings.rows`, without `max_new_tokens`.
        stop: Stop strings.
    """

    def __init__(
        self,
        ids: list[int],
        truncated: int,
        limit: int,
        settings: dict[str, Any],
        stop: Sequence[bytes],
    ) -> None:
        self.ids, self.truncated, self.limit, self.stop = ids, truncated, limit, stop
        self._seed = int(settings.pop("seed"))
        self._least = int(settings.pop("min_new_tokens"))
        self._settings = settings

    def advance(
        self, logits: np.ndarray, text: Continuation, texts: Any, ends: Sequence[int]
    ) -> None:
        """Chooses the next token from logits `[V]`."""
        step = len(text.tokens)
        token = choose_token(
            logits,
            seen=np.unique(self.ids + text.tokens),
            forbidden=np.array(ends if step < self._least else [], np.int64),
            step=step,
            seed=self._seed,
            **self._settings,
        )
        if not np.isfinite(logits.max()):
            raise value_error(
                "The model's scores are not numbers: its weights or activations overflow.",
                fix="Check the weights for NaN and infinity.",
            )
        if token is None:
            text.reason = "no_token"
            return
        logprob = log_probability(logits, token)
        text.append(token, logprob, texts, limit=self.limit, end_tokens=ends, stop=self.stop)


def _score(logprobs: list[float], truncated: int) -> Score:
    """The record of a text, from the log-probability of each token."""
    total, scored = float(np.sum(np.asarray(logprobs, np.float32))), len(logprobs) - 1
    perplexity = float(np.exp(min(-total / max(scored, 1), _MOST_NATS)))
    return Score(total, scored, perplexity, logprobs, truncated)


def _read_tokenizer(path: Path) -> tokenizers.Tokenizer:
    """Reads `tokenizer.json`.

    Raises:
        ValueError: It is damaged.
    """
    try:
        return tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing more special
        raise unreadable(path, str(error), kind="tokenizer") from error


def _as_bytes(prompts: Any) -> list[bytes]:
    """One prompt or several as bytes.

    Raises:
        TypeError: They are not strings.
    """
    if isinstance(prompts, np.ndarray) and prompts.ndim == 1:
        prompts = prompts.tolist()
    prompts = [prompts] if isinstance(prompts, (str, bytes)) else prompts
    if not isinstance(prompts, (list, tuple)) or not all(
        isinstance(prompt, (str, bytes)) for prompt in prompts
    ):
        raise type_error(
            "Prompts must be a string or a list of strings.",
            fix="Pass text; the folder has its own tokenizer.",
            prompts=prompts,
        )
    return [to_bytes(prompt) for prompt in prompts]
