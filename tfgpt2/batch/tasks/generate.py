"""`generate`: a continuation of each text, with settings for each row."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from tfgpt2.batch.models import Arrays, BatchModel, find_export, from_signature
from tfgpt2.batch.tasks.base import Request, Task, number, numbers
from tfgpt2.errors import nearest, type_error, value_error
from tfgpt2.generation.option_values import check_option
from tfgpt2.generation.options import REQUEST_OPTIONS
from tfgpt2.generation.stopping import check_stop_strings
from tfgpt2.serving.export.signatures import registry
from tfgpt2.serving.export.signatures.base import SETTINGS, SignatureOptions
from tfgpt2.serving.export.signatures.generate import usual_inputs
from tfgpt2.text.generator import TextGenerator

_REFUSALS = {
    b"prompt_too_long": "The prompt leaves no room in the model's context.",
    b"empty_prompt": "The prompt is empty and the model has no start token to begin from.",
}
_LARGEST_SEED = 2**63 - 1


@dataclasses.dataclass(frozen=True)
class Generate(Task):
    """A continuation of each text.

    Args:
        options: Settings of `GenerationConfig` for all rows; `seed` is 0 if it is left out, and row
            `i` of the job uses `seed + i`.
        stop: Strings at which a text ends.
        setting_columns: Settings that rows have columns for: setting -> column, of
            `REQUEST_OPTIONS`, `EXTRA_OPTIONS` and `stop`. An empty value is that of all rows.
        prefix: A text before every row's, which the model reads once.
        on_long_prompt: `"truncate_left"`, or `"error"`, an error in the row.
        token_details: Add `token_ids` and `token_logprobs`.

    Raises:
        ValueError: An option is out of range, or a setting unknown.
    """

    name: ClassVar[str] = "generate"
    signature: ClassVar[str] = "generate"

    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    stop: tuple[str, ...] = ()
    setting_columns: Mapping[str, str] = dataclasses.field(default_factory=dict)
    prefix: str | None = None
    on_long_prompt: str = "truncate_left"
    token_details: bool = False

    def __post_init__(self) -> None:
        """Checks the settings of all rows, and the names of the rows' own."""
        for name, value in self.options.items():
            if name in REQUEST_OPTIONS and check_option(REQUEST_OPTIONS[name], value).ndim:
                raise value_error(
                    f"`{name}` must be one value for all rows.",
                    fix="Put the rows' own values into a column, and name it in setting_columns.",
                    **{name: value},
                )
        known = (*SETTINGS, "stop")
        for name, column in self.setting_columns.items():
            if name not in known:
                raise value_error(
                    f"There is no setting {name!r} with one value per row.",
                    fix=nearest(name, known),
                    setting_columns={name: column},
                )
        check_stop_strings("stop", list(self.stop), 1)

    @property
    def columns(self) -> dict[str, str]:
        """See `Task`."""
        return dict(self.setting_columns)

    @property
    def result_types(self) -> dict[str, str]:
        """See `Task`; lists where each row has several texts."""
        types = {"generated_text": "string", "logprob": "float32", "finish_reason": "string"}
        types |= {"num_tokens": "int32", "prompt_tokens": "int32", "truncated": "int32"}
        if self.token_details:
            types |= {"token_ids": "list<int32>", "token_logprobs": "list<float32>"}
        if self.options.get("num_return_sequences", 1) > 1:
            types = {
                name: kind if name in ("prompt_tokens", "truncated") else f"list<{kind}>"
                for name, kind in types.items()
            }
        return types

    def load(self, name: str, *, jit_compile: bool = True) -> BatchModel:
        """See `Task`.

        Raises:
            ValueError: The program does not take a setting.
        """
        model = super().load(name, jit_compile=jit_compile)
        asked = {*self.columns, *(n for n in self.options if n in REQUEST_OPTIONS)}
        if find_export(name):
            asked |= {*self.options}
            if self.prefix is not None or self.on_long_prompt != "truncate_left":
                raise value_error(
                    "`prefix` and `on_long_prompt` are fixed in an export.",
                    fix="Export the model with them, or name a checkpoint.",
                    model=name,
                )
        for option in asked - {"seed"}:
            if option not in model.inputs:
                raise value_error(
                    f"The model's signature `generate` does not take `{option}`.",
                    fix="Leave it out, or export the model with it.",
                    inputs=sorted(model.inputs),
                )
        return model

    def load_checkpoint(self, name: str, *, jit_compile: bool) -> BatchModel:
        """See `Task`."""
        plain = TextGenerator.from_pretrained(name)
        config = plain._config(self.options)
        generator = TextGenerator(
            plain.model,
            plain.tokenizer,
            config,
            on_long_prompt=self.on_long_prompt,
            prefix=self.prefix,
            jit_compile=jit_compile,
        )
        inputs = dict.fromkeys((*usual_inputs(config), *self.columns))
        inputs.pop("stop", None)
        options = SignatureOptions(names=("generate",), inputs=tuple(inputs))
        signature = registry.create(generator, options)["generate"]
        return from_signature(
            signature, generator.tokenizer, generator.model, generation=config.to_dict()
        )

    def request(self, number: int, columns: Mapping[str, Any], text_column: str) -> Request:
        """See `Task`."""
        request = super().request(number, columns, text_column)
        settings = {
            name: _setting(name, columns[column])
            for name, column in self.columns.items()
            if columns.get(column) not in (None, "")
        }
        return request._replace(settings=settings)

    def sort_key(self, request: Request, model: BatchModel, tokens: int) -> tuple[int, ...]:
        """Rows that ask for about as many new tokens, then rows of about the same length."""
        most = self._value("max_new_tokens", request, model)
        return (int(most).bit_length(), tokens)

    def inputs(self, requests: Sequence[Request], size: int, model: BatchModel) -> Arrays:
        """See `Task`."""
        found, missing = super().inputs(requests, size, model), size - len(requests)
        for name in model.inputs:
            if name in ("text", "stop"):
                continue
            idle = 0 if name in ("max_new_tokens", "seed") else SETTINGS[name].off
            values = [self._value(name, request, model) for request in requests]
            found[name] = np.array(values + [idle] * missing, SETTINGS[name].dtype)
        if "stop" in model.inputs:
            stops = [self._stops(request, model) for request in requests] + [[]] * missing
            found["stop"] = check_stop_strings("stop", stops, size).numpy()
        return found

    def result(self, outputs: Arrays, row: int) -> dict[str, Any]:
        """See `Task`."""
        if outputs["finish_reason"].ndim == 1:
            return self._text({name: values[row] for name, values in outputs.items()})
        texts = range(outputs["finish_reason"].shape[1])
        found = [self._text({n: values[row, i] for n, values in outputs.items()}) for i in texts]
        joined = {name: [one[name] for one in found] for name in found[0]}
        return joined | {name: found[0][name] for name in ("prompt_tokens", "truncated")}

    def _text(self, outputs: Arrays) -> dict[str, Any]:
        """The result columns of one text."""
        reason = outputs["finish_reason"]
        if reason in _REFUSALS:
            raise ValueError(_REFUSALS[reason])
        count = int(outputs["num_tokens"])
        found = {
            "generated_text": outputs["text"].decode(),
            "logprob": number(outputs["logprob"]),
            "finish_reason": reason.decode(),
            "num_tokens": count,
            "prompt_tokens": int(outputs["prompt_tokens"]),
            "truncated": int(outputs["truncated"]),
        }
        if self.token_details:
            found["token_ids"] = outputs["token_ids"][:count].tolist()
            found["token_logprobs"] = numbers(outputs["token_logprobs"][:count])
        return found

    def _value(self, name: str, request: Request, model: BatchModel) -> Any:
        """A row's setting: its own, that of all rows, or the model's."""
        if name == "seed" and name not in request.settings:
            return (self.options.get("seed", 0) + request.number) % _LARGEST_SEED
        if name in request.settings:
            return request.settings[name]
        if self.options.get(name) is not None:
            return self.options[name]
        return model.defaults[name][0] if name in model.defaults else SETTINGS[name].off

    def _stops(self, request: Request, model: BatchModel) -> list[Any]:
        stops = request.settings.get("stop", self.stop)
        return list(stops) if stops else model.defaults["stop"][0].tolist()


def _setting(name: str, value: Any) -> Any:
    """A row's own setting, checked; text, as in a CSV file, is read as a number.

    Raises:
        TypeError: It has the wrong type.
        ValueError: It is out of range.
    """
    if name == "stop":
        stops = [value] if isinstance(value, str) else value
        check_stop_strings(name, [stops], 1)
        return stops
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            pass  # the check below says what is expected
    array = check_option(SETTINGS[name], value)
    if array.ndim:
        raise type_error(
            f"`{name}` of a row must be one value.", fix="Correct the row.", **{name: value}
        )
    return array[()]
