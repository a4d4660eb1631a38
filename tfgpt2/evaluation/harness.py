"""An adapter for lm-evaluation-harness: its tasks on models and on exported SavedModels.

    import lm_eval, tfgpt2.evaluation.harness            # registers the name "tfgpt2"
    lm_eval.simple_evaluate("tfgpt2", {"pretrained": "shakespeare-tiny"}, tasks=["lambada_openai"])
    lm_eval.simple_evaluate("tfgpt2", {"saved_model": "saved_models/gpt2/1"}, tasks=[...])

The harness is an extra: `pip install 'tfgpt2[eval]'`.

Source: lm-evaluation-harness 0.4.13, `api/model.py` for the interface and `models/huggingface.py`
for its own implementation.
"""

from __future__ import annotations

import collections
import json
from typing import Any

from tfgpt2.errors import nearest, value_error
from tfgpt2.evaluation.exported import ExportedModel
from tfgpt2.evaluation.scoring import Scorer, ScoringRequest, continuation_request
from tfgpt2.extras import missing_extra
from tfgpt2.validation import check_count

try:
    import lm_eval.models  # noqa: F401  (registers its own models first)
    from lm_eval.api.model import TemplateLM
    from lm_eval.api.registry import register_model
    from lm_eval.models.utils import normalize_gen_kwargs
    from lm_eval.utils import get_rolling_token_windows
except ImportError as error:
    missing = error.name or "lm_eval"
    raise missing_extra("tfgpt2.evaluation.harness", "eval", missing) from error

# Generation settings of tasks, except length and stop strings.
_SETTINGS = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed")


class InMemoryModel:
    """A `TextGenerator` as a backend of the harness.

    Args:
        generator: The generator; prompts that are too long lose their beginning.
        batch_size: Rows in a batch.
    """

    def __init__(self, generator: Any, batch_size: int) -> None:
        self._generator = generator
        self._scorer = Scorer(
            generator.model, batch_size=batch_size, jit_compile=generator.jit_compile_loop
        )
        self.longest = self._scorer.context
        self.score = self._scorer.score

    def encode(self, text: str) -> list[int]:
        """Tokenizes."""
        return self._generator.tokenizer.tokenize(text).numpy().tolist()

    def generate(self, prompts: list[str], stop: list[str], options: dict[str, Any]) -> list[str]:
        """Generates continuations of prompts."""
        return self._generator.generate(prompts, stop=stop, **options)


@register_model("tfgpt2")
class TFGPT2LM(TemplateLM):
    """A model of this package, or an export, for the harness.

    Args:
        pretrained: Bundled name, directory or hub name; or a `TextGenerator`.
        saved_model: Version directory of an export, instead of `pretrained`; see `ExportedModel`
            for its limitations.
        batch_size: Rows in a batch.
        max_length: Most input tokens; None is the context (for an export, one less).
        max_gen_toks: New tokens, unless a task sets them.
        prefix_token: Special token before a text without context; None is the tokenizer's start
            token or else its end token, and `<|endoftext|>` for an export.
        jit_compile: Whether to compile an in-memory model with XLA.
        dtype: Keras dtype policy of an in-memory model.

    Raises:
        FileNotFoundError: There is no such model.
        ValueError: An argument is out of range, or conflicts with another.
    """

    def __init__(
        self,
        pretrained: Any = None,
        *,
        saved_model: str | None = None,
        batch_size: int | str = 8,
        max_length: int | None = None,
        max_gen_toks: int = 256,
        prefix_token: str | None = None,
        jit_compile: bool = True,
        dtype: str | None = None,
        device: str | None = None,
        max_batch_size: int | None = None,
    ) -> None:
        super().__init__()
        _refuse(device=device, max_batch_size=max_batch_size)
        batch_size = int(batch_size) if str(batch_size).isdigit() else batch_size
        for name, value in (("batch_size", batch_size), ("max_gen_toks", max_gen_toks)):
            check_count(name, value, least=1, optional=False)
        self.batch_size, self.max_gen_toks = batch_size, max_gen_toks
        self._prefix: int | None = None
        if saved_model is not None:
            if pretrained is not None or dtype is not None:
                raise value_error(
                    "`saved_model` cannot be combined with `pretrained` and its options.",
                    fix="Pass one of them.",
                    saved_model=saved_model,
                    pretrained=pretrained,
                    dtype=dtype,
                )
            self._backend: InMemoryModel | ExportedModel = ExportedModel(saved_model, batch_size)
            prefix_token = prefix_token or "<|endoftext|>"
        else:
            generator = _generator(pretrained or "shakespeare-tiny", jit_compile, dtype)
            self._backend = InMemoryModel(generator, batch_size)
            tokenizer = generator.tokenizer
            ids = [tokenizer.bos_token_id, tokenizer.eos_token_id]
            self._prefix = next((token for token in ids if token is not None), None)
        if prefix_token is not None:
            ids = self._backend.encode(prefix_token)
            self._prefix = ids[0] if len(ids) == 1 else None
        self.max_length = self._backend.longest if max_length is None else max_length
        check_count("max_length", self.max_length, least=1, optional=False)
        if self.max_length > self._backend.longest:
            raise value_error(
                f"`max_length` must be at most {self._backend.longest}.",
                fix="Leave max_length out.",
                max_length=max_length,
            )

    @property
    def eot_token_id(self) -> int:
        """The token before a text without context."""
        if self._prefix is None:
            raise value_error(
                "The task scores texts without context, and the model has no start token.",
                fix="Pass one of the vocabulary, such as prefix_token='<|endoftext|>'.",
                prefix_token=None,
            )
        return self._prefix

    @property
    def tokenizer_name(self) -> str:
        """Name of the tokenizer in the harness' request cache."""
        return "tfgpt2"

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
    ) -> list[int]:
        """Tokenizes; GPT-2 adds no special tokens, so `add_special_tokens` has no effect."""
        return self._backend.encode(string)

    def _loglikelihood_tokens(
        self,
        requests: list[tuple[tuple[str, str], list[int], list[int]]],
        disable_tqdm: bool = False,
        **kwargs: Any,
    ) -> list[tuple[float, bool]]:
        """Scores continuations."""
        scoring = [
            continuation_request(before, after, self.max_length) for _, before, after in requests
        ]
        scores = self._backend.score(scoring, progress=not disable_tqdm)
        answers = [(score.total, score.greedy) for score in scores]
        for (texts, _, _), answer in zip(requests, answers, strict=True):
            if texts is not None:
                self.cache_hook.add_partial("loglikelihood", texts, answer)
        return answers

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """Scores complete texts, in windows without overlap of the scored tokens."""
        scoring, owners = [], []
        for number, request in enumerate(requests):
            tokens = self.tok_encode(request.args[0])
            for inputs, targets in get_rolling_token_windows(
                tokens, self.prefix_token_id, self.max_length, context_len=1
            ):
                scoring.append(ScoringRequest(inputs, targets))
                owners.append(number)
        totals = [0.0] * len(requests)
        scores = self._backend.score(scoring, progress=not disable_tqdm)
        for owner, score in zip(owners, scores, strict=True):
            totals[owner] += score.total
        for request, total in zip(requests, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return totals

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """Generates until a stop string, an end token or the length."""
        groups = collections.defaultdict(list)
        for number, request in enumerate(requests):
            groups[json.dumps(request.args[1], sort_keys=True)].append(number)
        texts = [""] * len(requests)
        for numbers in groups.values():
            stop, options = self._settings(requests[numbers[0]].args[1])
            numbers.sort(key=lambda number: -len(requests[number].args[0]))
            for start in range(0, len(numbers), self.batch_size):
                batch = numbers[start : start + self.batch_size]
                prompts = [requests[number].args[0] for number in batch]
                for number, text in zip(
                    batch, self._backend.generate(prompts, stop, options), strict=True
                ):
                    texts[number] = text
        for request, text in zip(requests, texts, strict=True):
            self.cache_hook.add_partial("generate_until", request.args, text)
        return texts

    def _settings(self, kwargs: dict[str, Any]) -> tuple[list[str], dict[str, Any]]:
        """Converts a task's generation arguments to stop strings and settings of `generate`."""
        asked = dict(normalize_gen_kwargs(kwargs, self.max_gen_toks))
        stop = [text for text in asked.pop("until", None) or [] if text]
        most, sample = asked.pop("max_gen_toks"), asked.pop("do_sample", False)
        for name in asked:
            if name not in _SETTINGS:
                raise value_error(
                    f"The task uses the generation option {name!r}, which is not supported.",
                    fix=nearest(name, (*_SETTINGS, "do_sample", "until", "max_gen_toks")),
                    **{name: asked[name]},
                )
        if most >= self.max_length:
            raise value_error(
                f"`max_gen_toks` must be less than the context of {self.max_length} tokens, to"
                " leave some for the prompt.",
                fix="Lower max_gen_toks, here or in the task.",
                max_gen_toks=most,
            )
        if not sample:
            asked = {"temperature": 0.0} | {
                name: asked[name] for name in ("repetition_penalty",) if name in asked
            }
        return stop, asked | {"max_new_tokens": most}


def _generator(pretrained: Any, jit_compile: bool, dtype: str | None) -> Any:
    """Loads a generator, or checks a given one."""
    from tfgpt2.text.generator import TextGenerator

    if not isinstance(pretrained, TextGenerator):
        return TextGenerator.from_pretrained(
            pretrained, dtype=dtype, on_long_prompt="truncate_left", jit_compile=jit_compile
        )
    if pretrained.on_long_prompt != "truncate_left" or dtype is not None:
        raise value_error(
            "A given TextGenerator keeps its dtype, and must truncate long prompts.",
            fix="Make it with on_long_prompt='truncate_left', and leave dtype out.",
            on_long_prompt=pretrained.on_long_prompt,
            dtype=dtype,
        )
    return pretrained


def _refuse(**options: Any) -> None:
    """Refuses options of the harness' own models that this one does not have."""
    for name, value in options.items():
        if value is not None:
            raise value_error(
                f"The tfgpt2 model has no option {name!r}: TensorFlow places the model, and"
                " the batch size is fixed.",
                fix="Leave it out; CUDA_VISIBLE_DEVICES chooses devices.",
                **{name: value},
            )
