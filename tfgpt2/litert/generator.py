"""Text in, text out from an exported folder, without TensorFlow: `LiteRTGenerator`."""

from __future__ import annotations

import codecs
import os
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

from tfgpt2.errors import nearest, type_error, unreadable, value_error
from tfgpt2.files import read_json_object
from tfgpt2.generation.stop_lists import stop_lists, to_bytes
from tfgpt2.generation.written_text import TokenTexts
from tfgpt2.litert import contract as files
from tfgpt2.litert.contract import Contract, read_token_texts
from tfgpt2.litert.engine import Engine
from tfgpt2.litert.group import Group, make_groups
from tfgpt2.litert.request import Request, keep_end, make_request
from tfgpt2.litert.settings import default_settings, merge, rows
from tfgpt2.litert.texts import Continuation
from tfgpt2.serving.client.records import Score
from tfgpt2.text.generation import Generation
from tfgpt2.validation import check_choice, check_count

_POLICIES = ("error", "truncate_left")
_FIXED = ("batch_size", "context", "quantize")
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
        texts: TokenTexts,
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
        **fixed: Any,
    ) -> LiteRTGenerator:
        """Loads an exported folder.

        Args:
            folder: The folder.
            threads: Threads of a step; None is one per core.
            on_long_prompt: See `TextGenerator`; None is what the export says.
            cache_dir: Where the runtime stores its own form of the weights, as large as
                `model.tflite`, which later processes map; None is the user's cache folder. Where
                nothing can be written, it takes memory instead.
            **fixed: `batch_size`, `context` or `quantize`, where a program wants to be sure of
                them; they must be those of the export.

        Raises:
            FileNotFoundError: The folder, or one of its files, does not exist.
            TypeError: There is no such argument.
            ValueError: It is no such export, damaged, or the runtime cannot run it; or it has
                another batch size or context.
            ImportError: `ai-edge-litert` is not installed.
        """
        folder = Path(folder)
        check_count("threads", threads, 1)
        if on_long_prompt is not None:
            check_choice("on_long_prompt", on_long_prompt, _POLICIES)
        contract = Contract.read(folder)
        _check_fixed(contract, fixed)
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
        for group in make_groups(self._engine, requests, self._texts):
            for _ in self._steps(group):
                pass
            records += map(self._record, group.requests, group.found)
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
        ids = list(map(self.tokenize, _as_bytes(texts)))
        for number, one in enumerate(ids):
            if max(one, default=0) >= self.contract.vocab_size:
                raise self._refused("unknown_token", number)
        size, scores = self.contract.batch_size, []
        for first in range(0, len(ids), size):
            group = ids[first : first + size]
            before = len(self.contract.prefix_ids)
            kept = [keep_end(one, self.contract.context, before) for one in group]
            kept = [one or [self.contract.start_id or 0] for one in kept]
            with self._engine.texts(kept, self.contract.context) as reading:
                logprobs = reading.score()
            for row, one in enumerate(kept):
                found = logprobs[row, logprobs.shape[1] - len(one) :].tolist()
                scores.append(_score(found, max(0, len(group[row]) - len(one))))
        return scores[0] if isinstance(texts, (str, bytes)) else scores

    @property
    def engine(self) -> Engine:
        """The loaded model."""
        return self._engine

    @property
    def token_texts(self) -> TokenTexts:
        """The text of every id."""
        return self._texts

    def default_options(self) -> dict[str, Any]:
        """The folder's settings, by name: what `generate` does without options."""
        return merge(self._defaults, {})

    def tokenize(self, text: bytes | str) -> list[int]:
        """The ids of a text, after those that stand before every text."""
        text = to_bytes(text).decode("utf-8", "replace")
        ids = self._tokenizer.encode(text, add_special_tokens=False).ids
        return [*self.contract.prefix_ids, *ids]

    def detokenize(self, ids: Sequence[int]) -> bytes:
        """The text of ids; special tokens, and ids that the model lacks, give none."""
        written, special = self._texts.written, self._texts.special
        known = (one for one in ids if 0 <= one < len(written) and one not in special)
        return b"".join(written[one] for one in known)

    def _requests(self, texts: list[bytes], options: dict[str, Any], stop: Any) -> list[Request]:
        """Checks what a user asked for, and tokenizes the prompts.

        Raises:
            ValueError: A prompt cannot run.
        """
        values = merge(self._defaults, options)
        stops = stop_lists("stop", self.contract.stop_strings if stop is None else stop, len(texts))
        requests = []
        for number, settings in enumerate(rows(values, len(texts))):
            request, refusal = make_request(
                self.tokenize(texts[number]),
                settings,
                stops[number],
                self.contract,
                self.on_long_prompt,
                num_first=len(self.contract.prefix_ids),
            )
            if request is None:
                raise self._refused(refusal, number)
            requests.append(request)
        return requests

    def _refused(self, reason: str, number: int) -> ValueError:
        """The error of a prompt that cannot run."""
        context, size = self.contract.context, self.contract.vocab_size
        problem, fix = {
            "prompt_too_long": (
                f"The prompt leaves no room in the model's context of {context} tokens.",
                "Shorten it, or load the folder with on_long_prompt='truncate_left'.",
            ),
            "empty_prompt": (
                "The prompt is empty and the model has no start token to begin from.",
                "Give at least one character that the vocabulary knows.",
            ),
            "unknown_token": (
                f"The prompt has a token that the model, with {size} tokens, has no embedding for.",
                "Leave it out.",
            ),
        }[reason]
        return value_error(problem, fix=fix, prompt_number=number)

    def _steps(self, group: Group) -> Iterator[None]:
        """Generates until every text has ended, and pauses after each token."""
        try:
            group.read()
            while group.is_running:
                group.advance()
                yield
        finally:
            group.close()

    def _pieces(self, request: Request) -> Generator[str, None, int]:
        """Yields the text that can no longer change; its value is the number of tokens."""
        (group,), done = make_groups(self._engine, [request], self._texts), 0
        (text,) = group.found
        held_back = max(0, max(map(len, request.stop), default=0) - 1)  # might begin a stop string
        utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")
        for _ in self._steps(group):
            shown = text.shown(self._texts, 0 if text.reason else held_back)
            piece = utf8.decode(shown[done:], final=bool(text.reason))
            done = max(done, len(shown))
            if piece:
                yield piece
        return len(text.tokens)

    def _record(self, request: Request, text: Continuation) -> Generation:
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


def _check_fixed(contract: Contract, given: Mapping[str, Any]) -> None:
    """Compares what a program expects of an export with what it is.

    Raises:
        TypeError: There is no such argument.
        ValueError: They differ.
    """
    for name, value in given.items():
        if name not in _FIXED:
            raise type_error(
                f"from_pretrained() has no argument {name!r}.",
                fix=nearest(name, [*_FIXED, "threads", "on_long_prompt", "cache_dir"]),
                **{name: value},
            )
        if value != getattr(contract, name):
            raise value_error(
                f"The export has {name}={getattr(contract, name)!r}, which is fixed in the file.",
                fix=f"Export again with {name}={value!r}, or leave it out.",
                **{name: value},
            )


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
