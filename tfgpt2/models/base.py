"""The base class of the models: how inputs enter, how weights load and save, how `fit` trains."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterable, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfgpt2.config import GPT2Config
from tfgpt2.errors import explain
from tfgpt2.models.call_arguments import LABELS, unpack
from tfgpt2.models.call_inputs import Inputs, check
from tfgpt2.models.storage import StoredModel
from tfgpt2.nn import lora, quantization
from tfgpt2.nn import resize as surgery
from tfgpt2.nn.backbone import Activations, GPT2Transformer
from tfgpt2.nn.layers import Embedding
from tfgpt2.nn.losses import PLAIN, LossSettings
from tfgpt2.outputs import ModelOutput


class TFGPT2PreTrainedModel(StoredModel, keras.Model):
    """What all GPT-2 models share; not used by itself.

    A model's weights exist from the moment it is made: their shapes follow from the
    configuration. A call takes its inputs as keywords, as one dict (what the tokenizer returns),
    or as a list `[input_ids, attention_mask, token_type_ids]`.

    Args:
        config: The configuration; a copy is kept.
        dtype: Keras dtype policy or name of one, such as `"mixed_bfloat16"`.
        **kwargs: `name` and `trainable`, as for any Keras model.
    """

    config_class = GPT2Config
    base_model_prefix = "transformer"
    adapters: lora.Adapters | None = None  # low-rank adapters, see tfgpt2.training.lora
    float_labels = False  # whether `labels` may be real numbers, as in a regression
    has_lm_loss = False  # whether the own loss is that of a language model
    loss_settings = PLAIN  # how that is computed; see `compile`

    def __init__(self, config: GPT2Config, *, dtype: Any = None, **kwargs: Any) -> None:
        if not isinstance(config, GPT2Config):
            raise TypeError(
                explain(
                    "A model is made from a GPT2Config.",
                    fix="To load a checkpoint, use from_pretrained(name).",
                    config=config,
                )
            )
        config.validate()
        super().__init__(dtype=dtype, **kwargs)
        # Keras wraps `quantize` to choose among its own quantisers; ours leaves nothing to choose.
        self.__dict__.pop("quantize", None)
        self.config = copy.deepcopy(config)
        self.transformer = GPT2Transformer(
            self.config, name=self.base_model_prefix, dtype=self.dtype_policy
        )
        self.make_head()
        planned = quantization.is_planned(self.config)
        if planned:
            quantization.plan(self)
        self.build()
        if planned:
            self.trainable = False

    def make_head(self) -> None:
        """Creates the layers beyond the transformer, if there are any."""

    def build(self, input_shape: object = None) -> None:
        """Creates all weights."""
        self.transformer.build()

    # Changing the model ------------------------------------------------------------------------

    def get_input_embeddings(self) -> Embedding:
        """The token table, with `weight` `[V, D]`."""
        return self.transformer.wte

    def set_input_embeddings(self, value: Any) -> None:
        """Replaces the token table, and with it a tied output matrix.

        Args:
            value: Float `[V, D]`, or an `Embedding`. Another `V` changes the vocabulary's size.

        Raises:
            ValueError: The rows have another width than the model.
        """
        quantization.refuse(self, "set_input_embeddings")
        rows = value.weight.value if isinstance(value, Embedding) else np.asarray(value)
        if len(rows.shape) != 2 or rows.shape[1] != self.config.n_embd:
            raise ValueError(
                explain(
                    f"The token table must have shape [V, {self.config.n_embd}].",
                    fix="Give one row of the model's width for each token.",
                    shape=list(rows.shape),
                )
            )
        self.resize_token_embeddings(int(rows.shape[0]), mean_resizing=False)
        self.transformer.wte.weight.assign(rows)

    def resize_token_embeddings(
        self,
        new_num_tokens: int | None = None,
        pad_to_multiple_of: int | None = None,
        mean_resizing: bool = True,
    ) -> Embedding:
        """Adds tokens at the end of the vocabulary, or takes them away there.

        A compiled model must be compiled again, and a `TextGenerator` made anew.

        Args:
            new_num_tokens: The new size; None keeps the present one.
            pad_to_multiple_of: Rounds the size up, which some devices like.
            mean_resizing: New tokens start as the mean of the others; else at random.

        Returns:
            The token table.

        Raises:
            ValueError: A number is not positive.

        Source: transformers 4.57, `modeling_utils.py::resize_token_embeddings`.
        """
        quantization.refuse(self, "resize_token_embeddings")
        size = self.config.vocab_size if new_num_tokens is None else new_num_tokens
        size = surgery.check_vocabulary_size(size, pad_to_multiple_of)
        for table in {
            id(t): t for t in (self.transformer.wte, self.get_output_embeddings())
        }.values():
            if table is not None and size != table.count:
                surgery.resize_embedding(table, size, mean_resizing=mean_resizing)
        self.config.vocab_size = size
        self._forget_programs()
        return self.transformer.wte

    def get_output_embeddings(self) -> Embedding | None:
        """The table that scores tokens, where the model has that head."""
        return None

    def prune_heads(self, heads_to_prune: Mapping[int, Iterable[int]]) -> None:
        """Cuts attention heads out of the model; `config.pruned_heads` remembers which.

        A compiled model must be compiled again, and a `TextGenerator` made anew.

        Args:
            heads_to_prune: Block to the numbers of heads, as the unpruned model counts them.
                Heads that are gone already stay so.

        Raises:
            ValueError: There is no such block or head, or none would be left in a block.
        """
        lora.refuse(self, "prune_heads")
        quantization.refuse(self, "prune_heads")
        config = self.config
        gone = {int(block): set(heads) for block, heads in config.pruned_heads.items()}
        wanted = {b: gone.get(int(b), set()) | set(h) for b, h in heads_to_prune.items()}
        for block, heads in surgery.check_heads(wanted, config.n_layer, config.n_head).items():
            present = config.kept_heads(block)
            keep = [place for place, head in enumerate(present) if head not in heads]
            surgery.prune(self.transformer.h[block].attn, keep)
            gone[block] = set(heads)
        config.pruned_heads = {block: sorted(heads) for block, heads in sorted(gone.items())}
        self._forget_programs()

    def quantize(self, mode: str = "int8") -> None:
        """Turns the model's matrices into int8, in place: a quarter of the size, faster decoding.

        The matrices of the blocks, the token table and the output matrix become whole numbers with
        a float32 scale per output; a call expresses each row of its activations likewise and adds
        up in int32. Everything else stays as it is. The model can no longer train. The integer
        products are fast where XLA compiles them, as `generate` does; without XLA the results are
        the same and take longer than the float model's.

        A compiled model must be compiled again to `evaluate`, and a `TextGenerator` made anew.

        Args:
            mode: `"int8"`, the only kind there is.

        Raises:
            ValueError: There is no such kind; the model is quantised already or has adapters; or
                a weight is no number.

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
        self.loss_settings = PLAIN
        self._forget_programs()

    @property
    def is_quantized(self) -> bool:
        """Whether the matrices are int8."""
        return self.transformer.wte.is_int8

    def _forget_programs(self) -> None:
        """Drops what was traced with weights of other shapes."""
        self.__dict__.pop("_decoders", None)
        self.train_function = self.test_function = self.predict_function = None
        self.optimizer, self.compiled = None, False

    def gradient_checkpointing_enable(self) -> None:
        """Trains with less memory: the backward pass computes each block's inside again."""
        self.transformer.checkpointing = True

    def gradient_checkpointing_disable(self) -> None:
        """Trains with everything kept, which is faster."""
        self.transformer.checkpointing = False

    @property
    def is_gradient_checkpointing(self) -> bool:
        """Whether gradient checkpointing is on."""
        return self.transformer.checkpointing

    # Inputs -----------------------------------------------------------------------------------

    def __call__(self, inputs: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Calls the model; see `call` for the arguments."""
        return super().__call__(**unpack(self, inputs, args, kwargs))

    def encode(self, training: bool | None, **arguments: Any) -> tuple[Inputs, Activations]:
        """Checks a call's arguments and runs the transformer on them.

        Args:
            training: Whether dropout acts.
            **arguments: Those of `tfgpt2.models.call_inputs.check`.
        """
        inputs = check(self.config, **arguments)
        return inputs, self.run(inputs, training=training)

    def run(self, inputs: Inputs, *, training: bool | None) -> Activations:
        """Runs the transformer on checked inputs."""
        embeddings = inputs.embeddings
        if embeddings is None:
            embeddings = self.transformer.wte(inputs.ids)  # [B, T, D]
        return self.transformer(
            embeddings,
            positions=inputs.positions,
            visible=inputs.visible,
            memories=inputs.memories,
            token_type_ids=inputs.token_type_ids,
            encoder_states=inputs.encoder_states,
            encoder_visible=inputs.encoder_visible,
            head_mask=inputs.head_mask,
            training=training,
        )

    # Training ---------------------------------------------------------------------------------

    def compile(
        self,
        optimizer: Any = "rmsprop",
        loss: Any = None,
        *,
        chunked_loss: bool | int = False,
        label_smoothing: float = 0.0,
        z_loss: float = 0.0,
        jit_compile: bool | str = "auto",
        **kwargs: Any,
    ) -> None:
        """Configures training as `keras.Model.compile` does.

        Args:
            optimizer: Keras optimizer or its name.
            loss: None, `"auto"` or `"passthrough"`: the model's own loss, from `labels` among the
                inputs. Otherwise a Keras loss on the logits, for targets that the pipeline has
                shifted already.
            chunked_loss: Compute the own loss of a language model without ever holding the logits
                of all tokens; a call with `labels` then returns no logits. A number is the
                tokens per chunk; True chooses it.
            label_smoothing: See `tfgpt2.nn.losses.LossSettings`; for the own loss of a
                language model, in training only.
            z_loss: Likewise.
            jit_compile: `"auto"` uses XLA on a GPU and not on a CPU, where TensorFlow's own matrix
                kernels train faster, in bfloat16 above all.
            **kwargs: See `keras.Model.compile`.

        Raises:
            ValueError: Options of the own loss do not fit the model, or come with another loss.
        """
        if chunked_loss is not False:
            quantization.refuse(self, "`chunked_loss`")
        loss = None if loss in ("auto", "passthrough") else loss
        settings = LossSettings(
            chunked=chunked_loss is not False,
            chunk=None if isinstance(chunked_loss, bool) else chunked_loss,
            label_smoothing=label_smoothing,
            z_loss=z_loss,
        )
        if settings != PLAIN and (loss is not None or not self.has_lm_loss):
            raise ValueError(
                explain(
                    "`chunked_loss`, `label_smoothing` and `z_loss` are options of a language"
                    " model's own loss.",
                    fix="Leave `loss` out and give 'labels' among the inputs, or leave them out.",
                    loss=loss,
                    model=type(self).__name__,
                    settings=settings,
                )
            )
        if jit_compile == "auto" and not tf.config.list_logical_devices("GPU"):
            jit_compile = False
        super().compile(optimizer=optimizer, loss=loss, jit_compile=jit_compile, **kwargs)
        self.loss_settings = settings
        self._scores_targets = loss is not None
        self._measures = bool(kwargs.get("metrics") or kwargs.get("weighted_metrics"))

    def get_compile_config(self) -> dict[str, Any]:
        """Returns what `compile_from_config` needs; Keras writes it to `.keras` files."""
        settings, config = self.loss_settings, super().get_compile_config()
        if not config or settings == PLAIN:
            return config
        return config | {
            "chunked_loss": (settings.chunk or True) if settings.chunked else False,
            "label_smoothing": settings.label_smoothing,
            "z_loss": settings.z_loss,
        }

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compiles a reloaded model as the saved one was; Keras asks this of an own `compile`."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.optimizer.build(self.trainable_variables)

    def make_train_function(self, force: bool = False) -> Any:
        """Builds what `fit` runs.

        Raises:
            ValueError: The model is quantised.
        """
        quantization.refuse(self, "Training")
        return super().make_train_function(force)

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> tf.Tensor:
        """Returns the scalar that `fit` minimises: the model's own loss, or the compiled one.

        Raises:
            ValueError: The data and `compile` ask for both losses, or for none.
        """
        parts = [y_pred[part] for part in _LOSSES if part in y_pred] if isinstance(
            y_pred, ModelOutput) else []  # fmt: skip
        own = tf.add_n(parts) if parts else None
        if own is not None and y is None and sample_weight is None and not self._scores_targets:
            # Replicas add their gradients up; `fit` shows the loss times their number again.
            replicas = tf.distribute.get_strategy().num_replicas_in_sync
            return tf.add_n([own, *self.losses]) / replicas
        if own is None and y is not None and self._scores_targets:
            return super().compute_loss(x, y, _scores(y_pred), sample_weight, training)
        raise ValueError(
            explain(
                "Training takes either 'labels' among the inputs, or targets and a compiled loss;"
                " not both, not neither, and sample weights only with targets.",
                fix="Use compile(optimizer) with {'input_ids': ids, 'labels': ids}, or"
                " compile(optimizer, loss) with (ids, targets).",
                inputs=sorted(x) if isinstance(x, Mapping) else type(x).__name__,
                targets=type(y).__name__,
                sample_weight=type(sample_weight).__name__,
                compiled_loss=self._scores_targets,
                results=type(y_pred).__name__,
            )
        )

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> dict:
        """Updates the compiled metrics with the logits and returns all of them.

        Raises:
            ValueError: There are metrics but no targets.
        """
        if y is None and self._measures:
            raise ValueError(
                explain(
                    "Metrics compare the logits with targets, and there are none.",
                    fix="Compile with a loss and feed (inputs, targets), or leave metrics out.",
                    inputs=sorted(x) if isinstance(x, Mapping) else type(x).__name__,
                )
            )
        return super().compute_metrics(x, y, _scores(y_pred), sample_weight)

    def predict_step(self, data: Any) -> Any:
        """Runs one batch of `predict`, without what cannot be joined along the rows."""
        x, _, _ = keras.utils.unpack_x_y_sample_weight(data)
        if isinstance(x, Mapping):  # labels give a loss, which is one number and no row's
            x = {name: value for name, value in x.items() if name not in LABELS}
        known = inspect.signature(self.call).parameters
        return self(x, training=False, **({"use_cache": False} if "use_cache" in known else {}))

    # Configuration and files ------------------------------------------------------------------

    def get_config(self) -> dict[str, Any]:
        """Returns what `from_config` needs to make this model again, without its weights."""
        policy = keras.dtype_policies.serialize(self.dtype_policy)
        config = {"config": self.config.to_dict(), "name": self.name, "dtype": policy}
        adapter = lora.to_config(self)
        return config if adapter is None else config | {"adapter": adapter}

    @classmethod
    def from_config(cls, config: Any, custom_objects: Any = None) -> TFGPT2PreTrainedModel:
        """Makes a model with fresh weights from a `GPT2Config` or from `get_config()`'s result."""
        if isinstance(config, GPT2Config):
            return cls(config)
        config = dict(config)
        adapter = config.pop("adapter", None)
        model = cls(GPT2Config.from_dict(config.pop("config")), **config)
        if adapter is not None:
            lora.from_config(model, adapter)
        return model

    def num_parameters(self) -> int:
        """Number of weights."""
        return sum(int(np.prod(weight.shape)) for weight in self.weights)


# What a model's own loss is the sum of.
_LOSSES = ("loss", "mc_loss")


def _scores(y_pred: Any) -> Any:
    """What Keras losses and metrics look at."""
    return y_pred["logits"] if isinstance(y_pred, ModelOutput) and "logits" in y_pred else y_pred
