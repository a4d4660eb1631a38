"""Model outputs: dicts whose entries are also attributes and, in order, items of a tuple."""

from __future__ import annotations

import inspect
from typing import Any

import optree

from tfgpt2.errors import nearest, type_error


class ModelOutput(dict):
    """Named results in a fixed order: `out.logits`, `out["logits"]`, `out[0]`, `out.to_tuple()`.

    A subclass declares its fields as annotations. Fields that are None are absent from the dict,
    so `out[0]` is the loss if there is one and the logits otherwise; as attributes they are None.
    Keras, `tf.nest` and `tf.function` treat it as a nested structure.

    Source: transformers 4.57, `utils/generic.py::ModelOutput` (behaviour).

    Example:
        >>> out = TFCausalLMOutputWithCrossAttentions(logits=1.5)
        >>> out.logits, out["logits"], out[0], out.loss
        (1.5, 1.5, 1.5, None)
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        values = dict(*args, **kwargs)
        unknown = values.keys() - set(self.fields())
        if unknown and type(self) is not ModelOutput:
            name = sorted(unknown)[0]
            raise type_error(
                f"{type(self).__name__} has no field {name!r}.",
                fix=nearest(name, self.fields()),
                **{name: values[name]},
            )
        order = self.fields() or tuple(values)
        super().__init__((name, values[name]) for name in order if values.get(name) is not None)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        _register(cls)

    @classmethod
    def fields(cls) -> tuple[str, ...]:
        """Names of the fields, in order; a subclass without its own has those of its base."""
        declared = (inspect.get_annotations(base) for base in cls.__mro__)
        return tuple(next(filter(None, declared), ()))

    def __getattr__(self, name: str) -> Any:
        if name in self:
            return dict.__getitem__(self, name)
        if name in self.fields():
            return None
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __getitem__(self, key: str | int | slice) -> Any:
        return super().__getitem__(key) if isinstance(key, str) else self.to_tuple()[key]

    def to_tuple(self) -> tuple[Any, ...]:
        """Returns the values that are not None, in order."""
        return tuple(self.values())


def _register(cls: type[ModelOutput]) -> None:
    """Registers a class with optree, the library of Keras' nested structures."""
    optree.register_pytree_node(
        cls,
        lambda out: (tuple(out.values()), tuple(out), tuple(out)),
        lambda names, values: _rebuild(cls, names, values),
        namespace="keras",
    )


def _rebuild(cls: type[ModelOutput], names: tuple[str, ...], values: Any) -> ModelOutput:
    # Not through __init__, since leaves may be placeholders, including None.
    out = cls.__new__(cls)
    dict.update(out, zip(names, values, strict=True))
    return out


_register(ModelOutput)


class TFBaseModelOutputWithPastAndCrossAttentions(ModelOutput):
    """Results of `TFGPT2Model`.

    Attributes:
        last_hidden_state: Float `[B, T, D]`, after the final layer norm.
        past_key_values: `L` tensors `[2, B, N, S, H]`, keys and values of all tokens so far.
        hidden_states: `L + 1` tensors `[B, T, D]`: the embeddings, then each block's output, the
            last one after the final layer norm.
        attentions: `L` tensors `[B, N, T, S]`, after the softmax.
        cross_attentions: `L` tensors `[B, N, T, encoder length]`.
    """

    last_hidden_state: Any
    past_key_values: Any
    hidden_states: Any
    attentions: Any
    cross_attentions: Any


class TFCausalLMOutputWithCrossAttentions(ModelOutput):
    """Results of `TFGPT2LMHeadModel`.

    Attributes:
        loss: Float `[]`, mean negative log-likelihood in nats over the labels that are not -100.
        logits: Float `[B, T, V]`, scores before the softmax.
        past_key_values: `L` tensors `[2, B, N, S, H]`, keys and values of all tokens so far.
        hidden_states: `L + 1` tensors `[B, T, D]`.
        attentions: `L` tensors `[B, N, T, S]`.
        cross_attentions: `L` tensors `[B, N, T, encoder length]`.
    """

    loss: Any
    logits: Any
    past_key_values: Any
    hidden_states: Any
    attentions: Any
    cross_attentions: Any


class TFGPT2DoubleHeadsModelOutput(ModelOutput):
    """Results of `TFGPT2DoubleHeadsModel`; `C` is the number of choices.

    Attributes:
        loss: Float `[]`, mean negative log-likelihood in nats of the language-model labels.
        mc_loss: Float `[]`, mean negative log-likelihood in nats of the correct choices.
        logits: Float `[B, C, T, V]`, language-model scores.
        mc_logits: Float `[B, C]`, a score for each choice.
        past_key_values: `L` tensors `[2, B * C, N, S, H]`.
        hidden_states: `L + 1` tensors `[B, C, T, D]`.
        attentions: `L` tensors `[B * C, N, T, S]`.
    """

    loss: Any
    mc_loss: Any
    logits: Any
    mc_logits: Any
    past_key_values: Any
    hidden_states: Any
    attentions: Any


class TFSequenceClassifierOutputWithPast(ModelOutput):
    """Results of `TFGPT2ForSequenceClassification`.

    Attributes:
        loss: Float `[]`, cross-entropy in nats, or the mean squared error of a regression.
        logits: Float `[B, num_labels]`, scores before the softmax or sigmoid.
        past_key_values: `L` tensors `[2, B, N, S, H]`.
        hidden_states: `L + 1` tensors `[B, T, D]`.
        attentions: `L` tensors `[B, N, T, S]`.
    """

    loss: Any
    logits: Any
    past_key_values: Any
    hidden_states: Any
    attentions: Any


class TFTokenClassifierOutput(ModelOutput):
    """Results of `TFGPT2ForTokenClassification`.

    Attributes:
        loss: Float `[]`, mean cross-entropy in nats over the labels that are not -100.
        logits: Float `[B, T, num_labels]`, scores before the softmax.
        past_key_values: `L` tensors `[2, B, N, S, H]`, with `use_cache=True`.
        hidden_states: `L + 1` tensors `[B, T, D]`.
        attentions: `L` tensors `[B, N, T, S]`.
    """

    loss: Any
    logits: Any
    past_key_values: Any
    hidden_states: Any
    attentions: Any


class TFQuestionAnsweringModelOutput(ModelOutput):
    """Results of `TFGPT2ForQuestionAnswering`.

    Attributes:
        loss: Float `[]`, mean of the cross-entropies in nats of start and end.
        start_logits: Float `[B, T]`, a score for each token as the answer's first.
        end_logits: Float `[B, T]`, a score for each token as the answer's last.
        hidden_states: `L + 1` tensors `[B, T, D]`.
        attentions: `L` tensors `[B, N, T, S]`.
    """

    loss: Any
    start_logits: Any
    end_logits: Any
    hidden_states: Any
    attentions: Any
