"""Methods and attributes that all models of transformers have."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfgpt2.models.editable import EditableModel
from tfgpt2.models.tf_dataset import prepare_tf_dataset
from tfgpt2.outputs import ModelOutput


class ModelMethods(EditableModel):
    """Base class of models with transformers' small methods and attributes.

    Attributes:
        name_or_path: What `from_pretrained` was called with; empty for a new model.
        framework: `"tf"`.
        supports_xla_generation: True, in models with `generate`.
        main_input_name: `"input_ids"`.
    """

    framework = "tf"
    supports_xla_generation = True
    main_input_name = "input_ids"
    name_or_path = ""
    # Inputs of an export without `input_signature`, and their numbers of axes.
    _export_inputs: Mapping[str, int] = {"input_ids": 2, "attention_mask": 2}

    @classmethod
    def can_generate(cls) -> bool:
        """Whether the model has `generate`."""
        return hasattr(cls, "generate")

    @property
    def input_signature(self) -> dict[str, tf.TensorSpec]:
        """The usual inputs of a call, by name."""
        inputs = self._export_inputs.items()
        return {name: tf.TensorSpec([None] * rank, tf.int32, name) for name, rank in inputs}

    @property
    def dummy_inputs(self) -> dict[str, tf.Tensor]:
        """Small inputs that the model can be called on."""
        inputs = self._export_inputs.items()
        made = {name: tf.ones([1] + [2] * (rank - 1), tf.int32) for name, rank in inputs}
        known = inspect.signature(self.call).parameters
        if self.config.add_cross_attention and "encoder_hidden_states" in known:
            made["encoder_hidden_states"] = tf.zeros([1, 2, self.config.n_embd])
        return made

    def serving_output(self, output: Mapping[str, Any]) -> ModelOutput:
        """Returns the result of a call as transformers serves it.

        Args:
            output: The result of a call.

        Returns:
            What the configuration asks for. Tensors of all blocks become one, if their shapes are
            equal.
        """
        attentions = self.config.output_attentions
        asked = {
            "past_key_values": self.config.use_cache,
            "hidden_states": self.config.output_hidden_states,
            "attentions": attentions,
            "cross_attentions": attentions and self.config.add_cross_attention,
        }
        return type(output)({n: _joined(x) for n, x in output.items() if asked.get(n, True)})

    def num_parameters(self, only_trainable: bool = False) -> int:
        """Number of weights.

        Args:
            only_trainable: Whether to leave out those that do not train.
        """
        weights = self.trainable_weights if only_trainable else self.weights
        return sum(int(np.prod(weight.shape)) for weight in weights)

    def get_bias(self) -> None:
        """None: no output matrix of GPT-2 has a bias."""

    def get_lm_head(self) -> keras.layers.Layer | None:
        """The table that scores tokens, in models with that head."""
        return self.get_output_embeddings()

    def set_output_embeddings(self, value: Any) -> None:
        """Replaces the table that scores tokens; a tied one is the token table.

        Args:
            value: Float `[V, D]`, or an `Embedding`.

        Raises:
            ValueError: The rows do not have the model's width, or it has no such table.
        """
        self.replace_output_table(value)

    def prepare_tf_dataset(
        self,
        dataset: Any,
        batch_size: int = 8,
        shuffle: bool = True,
        tokenizer: Any = None,
        collate_fn: Callable[..., Mapping[str, Any]] | None = None,
        collate_fn_args: Mapping[str, Any] | None = None,
        drop_remainder: bool | None = None,
        prefetch: bool = True,
    ) -> tf.data.Dataset:
        """Makes batches for `fit` from a dataset of tokenized examples.

        Columns that are no input of the model are left out; `label` and `label_ids` are `labels`.

        Args:
            dataset: A `datasets.Dataset`, a dict of columns, or a list of dicts.
            batch_size: Examples of a batch.
            shuffle: Whether each epoch has an order of its own.
            tokenizer: Pads the examples of a batch; without one, all have the same length.
            collate_fn: Makes a batch of a list of examples, instead.
            collate_fn_args: More arguments of it.
            drop_remainder: Whether a last batch that is not full is left out; None is `shuffle`.
            prefetch: Whether batches are made ahead.

        Returns:
            Batches `(inputs, labels)`, or inputs alone where the dataset has no labels; one input
            or one kind of labels is a tensor, several are a dict.

        Raises:
            TypeError: It is no dataset of examples.
            ValueError: No column is an input, or there is no full batch.
        """
        return prepare_tf_dataset(
            self,
            dataset,
            batch_size,
            shuffle=shuffle,
            tokenizer=tokenizer,
            collate_fn=collate_fn,
            collate_fn_args=collate_fn_args,
            drop_remainder=drop_remainder,
            prefetch=prefetch,
        )


def _joined(values: Any) -> Any:
    """One tensor of a tuple of them, if their shapes are equal."""
    if not isinstance(values, tuple) or len({tuple(x.shape) for x in values}) > 1:
        return values
    return tf.stack(values)
