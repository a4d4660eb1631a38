"""Changes to the weights of a model: its vocabulary, its attention heads, their type."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from tfgpt2.errors import value_error
from tfgpt2.models.trainable import TrainableModel
from tfgpt2.nn import lora, quantization, resize
from tfgpt2.nn.layers import Embedding
from tfgpt2.nn.losses import DEFAULT_LOSS


class EditableModel(TrainableModel):
    """Base class of models whose vocabulary, attention heads and precision can change."""

    def get_input_embeddings(self) -> Embedding:
        """The token table, with `weight` `[V, D]`."""
        return self.transformer.wte

    def get_output_embeddings(self) -> Embedding | None:
        """The table that scores tokens, in models with that head."""
        return None

    def set_input_embeddings(self, value: Any) -> None:
        """Replaces the token table, and with it a tied output matrix.

        Args:
            value: Float `[V, D]`, or an `Embedding`. Another `V` resizes the vocabulary.

        Raises:
            ValueError: The rows do not have the model's width.
        """
        quantization.require_float(self, "set_input_embeddings")
        rows = value.weight.value if isinstance(value, Embedding) else np.asarray(value)
        resize.check_table(rows.shape, self.config.n_embd)
        self.resize_token_embeddings(int(rows.shape[0]), mean_resizing=False)
        self.transformer.wte.weight.assign(rows)

    def replace_output_table(self, value: Any) -> None:
        """Replaces the table that scores tokens; see `ModelMethods.set_output_embeddings`."""
        table = self.get_output_embeddings()
        if table is None:
            raise value_error(
                "The model has no table that scores tokens.",
                fix="Use a model with a language-modeling head.",
                model=type(self).__name__,
            )
        if table is self.transformer.wte:
            self.set_input_embeddings(value)
            return
        quantization.require_float(self, "set_output_embeddings")
        rows = value.weight.value if isinstance(value, Embedding) else np.asarray(value)
        resize.check_table(rows.shape, self.config.n_embd)
        self.resize_token_embeddings(int(rows.shape[0]), mean_resizing=False)
        table.weight.assign(rows)

    def resize_token_embeddings(
        self,
        new_num_tokens: int | None = None,
        pad_to_multiple_of: int | None = None,
        mean_resizing: bool = True,
    ) -> Embedding:
        """Adds tokens at the end of the vocabulary, or removes them there.

        A compiled model must be compiled again, and a `TextGenerator` made anew.

        Args:
            new_num_tokens: The new size; None keeps the current one.
            pad_to_multiple_of: Rounds the size up to a multiple, which some devices prefer.
            mean_resizing: Initialise new tokens with the mean of the others; else randomly.

        Returns:
            The token table.

        Raises:
            ValueError: A number is not positive.

        Source: transformers 4.57, `modeling_utils.py::resize_token_embeddings`.
        """
        quantization.require_float(self, "resize_token_embeddings")
        size = self.config.vocab_size if new_num_tokens is None else new_num_tokens
        size = resize.check_vocabulary_size(size, pad_to_multiple_of)
        for table in (self.transformer.wte, self.get_output_embeddings()):
            if table is not None and size != table.count:  # a tied table is resized once
                resize.resize_embedding(table, size, mean_resizing=mean_resizing)
        self.config.vocab_size = size
        self._discard_compiled()
        return self.transformer.wte

    def prune_heads(self, heads_to_prune: Mapping[int, Iterable[int]]) -> None:
        """Removes attention heads; `config.pruned_heads` records which.

        A compiled model must be compiled again, and a `TextGenerator` made anew.

        Args:
            heads_to_prune: Block to the numbers of heads, as the unpruned model counts them.
                Heads that were pruned before stay pruned.

        Raises:
            ValueError: There is no such block or head, or a block would have none left.
        """
        lora.require_no_adapters(self, "prune_heads")
        quantization.require_float(self, "prune_heads")
        resize.prune_heads(self.transformer.h, self.config, heads_to_prune)
        self._discard_compiled()

    def quantize(self, mode: str = "int8") -> None:
        """Converts the model's matrices to int8, in place: a quarter of the size, faster decoding.

        The matrices of the blocks, the token table and the output matrix become int8 with a
        float32 scale per output; a call quantises each row of its activations likewise and
        accumulates in int32. Everything else stays as it is. The model can no longer train. The
        integer products are fast where XLA compiles them, as `generate` does; without XLA the
        results are the same and take longer than the float model's.

        A compiled model must be compiled again to `evaluate`, and a `TextGenerator` made anew.

        Args:
            mode: `"int8"`, the only mode.

        Raises:
            ValueError: There is no such mode, the model is quantised already or has adapters, or
                a weight is not finite.

        Example:
            >>> from tfgpt2 import GPT2Config, TFGPT2LMHeadModel
            >>> config = GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=10)
            >>> model = TFGPT2LMHeadModel(config)
            >>> model.quantize("int8")
            >>> model.is_quantized, model.transformer.wte.weight_int8.dtype
            (True, 'int8')
        """
        quantization.check_mode(mode)
        quantization.quantize(self)
        self.loss_settings = DEFAULT_LOSS
        self._discard_compiled()

    @property
    def is_quantized(self) -> bool:
        """Whether the matrices are int8."""
        return self.transformer.wte.is_int8

    def _discard_compiled(self) -> None:
        """Discards functions that were traced with weights of other shapes."""
        self.__dict__.pop("_decoders", None)
        self.train_function = self.test_function = self.predict_function = None
        self.optimizer, self.compiled = None, False
