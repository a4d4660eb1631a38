"""The base class of the models: files, the call that all heads share, changes to the weights."""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tfgpt2.checkpoints.detection import load_config, open_checkpoint
from tfgpt2.checkpoints.loader import WeightLoader
from tfgpt2.checkpoints.single_file import open_repository
from tfgpt2.checkpoints.writers.base import Content, stored_config, stored_tensors
from tfgpt2.checkpoints.writers.safetensors import SafetensorsWriter
from tfgpt2.config import GPT2Config
from tfgpt2.errors import explain, type_error, value_error
from tfgpt2.hub import HubOptions, Repository
from tfgpt2.models.call_arguments import unpack
from tfgpt2.models.call_inputs import CHECKED, CallInputs, check_inputs
from tfgpt2.models.call_outputs import optional_outputs
from tfgpt2.models.trainable import TrainableModel
from tfgpt2.nn import lora, quantization, resize
from tfgpt2.nn.backbone import ForwardOutputs, GPT2Transformer
from tfgpt2.nn.layers import Embedding, initial_weights
from tfgpt2.nn.losses import DEFAULT_LOSS
from tfgpt2.outputs import ModelOutput

_MAX_SHARD_BYTES = 5_000_000_000


class TFGPT2PreTrainedModel(TrainableModel):
    """Base class of all GPT-2 models; it has no `call` of its own.

    A model's weights exist from the moment it is made: their shapes follow from the
    configuration. A call takes its inputs as keywords, as one dict (what the tokenizer returns),
    or as a list `[input_ids, attention_mask, token_type_ids]`.

    A subclass creates its layers in `make_head`, spells out the arguments of its `call`, which is
    `return self.run(locals())`, and computes its results in `forward`.

    Args:
        config: The configuration; a copy is kept.
        dtype: Keras dtype policy or name of one, such as `"mixed_bfloat16"`.
        **kwargs: `name` and `trainable`, as for any Keras model.
    """

    config_class = GPT2Config
    base_model_prefix = "transformer"
    adapters: lora.Adapters | None = None  # low-rank adapters, see tfgpt2.training.lora
    head_parts: frozenset[str] = frozenset()  # layers of the head that a checkpoint may lack
    float_labels = False  # whether `labels` may be real numbers, as in a regression
    returns_cache = True  # whether `use_cache=None` means the configuration's, and not False

    def __init__(self, config: GPT2Config, *, dtype: Any = None, **kwargs: Any) -> None:
        if not isinstance(config, GPT2Config):
            raise type_error(
                "A model is made from a GPT2Config.",
                fix="To load a checkpoint, use from_pretrained(name).",
                config=config,
            )
        config.validate()
        super().__init__(dtype=dtype, **kwargs)
        # Keras wraps `quantize` to choose among its own quantizers, none of which applies here.
        self.__dict__.pop("quantize", None)
        self.config = copy.deepcopy(config)
        self.transformer = GPT2Transformer(
            self.config, name=self.base_model_prefix, dtype=self.dtype_policy
        )
        self.make_head()
        int8 = quantization.is_configured(self.config)
        if int8:
            quantization.prepare(self)
        self.build()
        if int8:
            self.trainable = False

    def make_head(self) -> None:
        """Creates the layers beyond the transformer, if there are any."""

    def build(self, input_shape: object = None) -> None:
        """Creates all weights."""
        for layer in self.layers:
            if not layer.built:
                layer.build()

    # The call ----------------------------------------------------------------------------------

    def __call__(self, inputs: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Calls the model; see `call` for the arguments."""
        return super().__call__(**unpack(self, inputs, args, kwargs))

    def run(self, arguments: dict[str, Any]) -> ModelOutput | tuple[Any, ...]:
        """Implements every model's `call`: transformer, head, optional outputs.

        Args:
            arguments: The arguments of `call` by name: its `locals()`.
        """
        checked = {name: arguments[name] for name in CHECKED if name in arguments}
        inputs, outputs = self.encode(arguments["training"], **checked)
        result = self.forward(inputs, outputs, arguments)
        use_cache, return_dict = arguments.get("use_cache"), arguments["return_dict"]
        optional = optional_outputs(
            self.config,
            inputs,
            outputs,
            use_cache=use_cache if self.returns_cache else bool(use_cache),
            output_attentions=arguments["output_attentions"],
            output_hidden_states=arguments["output_hidden_states"],
        )
        result = type(result)(result | optional)
        wants_dict = self.config.use_return_dict if return_dict is None else return_dict
        return result if wants_dict else result.to_tuple()

    def forward(
        self, inputs: CallInputs, outputs: ForwardOutputs, arguments: dict[str, Any]
    ) -> ModelOutput:
        """Computes the results of the head.

        Args:
            inputs: The checked inputs.
            outputs: What the transformer computed.
            arguments: All arguments of `call`, by name.
        """
        raise NotImplementedError

    def encode(self, training: bool | None, **arguments: Any) -> tuple[CallInputs, ForwardOutputs]:
        """Checks a call's arguments and runs the transformer on them.

        Args:
            training: Whether dropout is applied.
            **arguments: Those of `tfgpt2.models.call_inputs.check_inputs`.
        """
        inputs = check_inputs(self.config, **arguments)
        embeddings = inputs.embeddings
        if embeddings is None:
            embeddings = self.transformer.wte(inputs.ids)  # [B, T, D]
        return inputs, self.transformer(
            embeddings,
            positions=inputs.positions,
            visible=inputs.visible,
            append_kv=inputs.append_kv,
            token_type_ids=inputs.token_type_ids,
            encoder_states=inputs.encoder_states,
            encoder_visible=inputs.encoder_visible,
            head_mask=inputs.head_mask,
            training=training,
        )

    # Files -------------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(
        cls,
        name: str | os.PathLike[str],
        *,
        config: GPT2Config | None = None,
        dtype: Any = None,
        quantize: str | None = None,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        subfolder: str = "",
        local_files_only: bool = False,
        force_download: bool = False,
        gguf_file: str = "",
        ignore_mismatched_sizes: bool = False,
        from_pt: bool = False,
        low_cpu_mem_usage: bool | None = None,
        **overrides: Any,
    ) -> Any:
        """Loads a model by directory, bundled name, hub name or file, in any format.

        The formats are those of `tfgpt2.checkpoints.registry`: safetensors, PyTorch's `.bin`,
        TensorFlow's `.h5`, Flax's msgpack, OpenAI's own, KerasHub presets, nanoGPT's `ckpt.pt`,
        minGPT's `model.pt`, llm.c's `.bin`, GGUF. None needs its library.

        Args:
            name: `"shakespeare-tiny"` (bundled), a directory, a file of weights, or a hub name
                such as `"openai-community/gpt2"`.
            config: The configuration to use instead of the checkpoint's own.
            dtype: Keras dtype policy; None is Keras' global one (float32 unless changed),
                whatever type the file stores.
            quantize: `"int8"` calls `model.quantize("int8")` after loading; a quantised checkpoint
                needs no such request.
            revision: Branch, tag or commit on the hub.
            token: Access token, or True for the stored one.
            cache_dir: Where downloads are kept.
            subfolder: Folder inside the repository.
            local_files_only: Never access the network.
            force_download: Download again.
            gguf_file: Name of the GGUF file to read, in a directory or repository.
            ignore_mismatched_sizes: Newly initialise weights that have another shape in the file,
                such as a head with other labels, with a warning, instead of raising.
            from_pt: As in transformers 4, where it was needed for PyTorch's files. Changes nothing:
                they come first of all formats, and every format is recognised.
            low_cpu_mem_usage: As in transformers. Changes nothing: weights are always read one by
                one into their final memory.
            **overrides: Fields of the configuration to change, such as `attn_pdrop=0.0`.

        Raises:
            FileNotFoundError: There is no such model, or it has no weights in a known format.
            ValueError: A file is broken, weights and configuration do not fit, or there is no such
                quantisation.
            TypeError: An override is not a field of the configuration.

        Example:
            >>> TFGPT2LMHeadModel = __import__("tfgpt2").TFGPT2LMHeadModel
            >>> TFGPT2LMHeadModel.from_pretrained("shakespeare-tiny").config.n_layer
            6
        """
        if quantize is not None:
            quantization.check_mode(quantize)
        options = HubOptions(
            revision, token, cache_dir, subfolder, local_files_only, force_download, gguf_file
        )
        files = open_repository(name, options)
        shown = f"{name}/{subfolder}" if subfolder else str(name)  # in messages
        if config is None:
            config = load_config(files.find, shown, **overrides)
        elif overrides and isinstance(config, GPT2Config):
            config = GPT2Config.from_dict(config.to_dict(), **overrides)
        loader = WeightLoader(
            open_checkpoint(files.find, shown),
            may_lack=cls.head_parts,
            ignore_mismatched_sizes=ignore_mismatched_sizes,
        )
        with initial_weights(loader.read):
            model = cls(config, dtype=dtype)
        loader.check(shown)
        if loader.fresh:
            warnings.warn(
                f"{shown!r} has no {', '.join(loader.fresh)}: freshly initialised, so train"
                f" {cls.__name__} before using its results.",
                stacklevel=2,
            )
        if loader.mismatched:
            warnings.warn(
                f"Weights of {shown!r} have another shape in {cls.__name__}:"
                f" {', '.join(loader.mismatched)}. They are freshly initialised, so train it before"
                " using its results.",
                stacklevel=2,
            )
        model.load_generation_config(files)
        if quantize is not None and not model.is_quantized:
            model.quantize(quantize)
        return model

    def save_pretrained(
        self,
        directory: str | os.PathLike[str],
        *,
        dtype: str | None = None,
        max_shard_bytes: int = _MAX_SHARD_BYTES,
    ) -> None:
        """Writes `config.json` and safetensors weights, which PyTorch transformers loads too.

        A quantised model's file is a quarter of the size, and only this package's
        `from_pretrained` reads it; see `tfgpt2.nn.quantization` for its tensors.

        New files are written next to those of an earlier save and replace them at the end, so an
        interrupted save leaves the earlier one intact.

        Args:
            directory: Created if it does not exist.
            dtype: Type to store, such as `"float16"`; None is the type of the weights.
            max_shard_bytes: Size above which the weights are split over several files.

        Raises:
            NotADirectoryError: `directory` is a file.
            ValueError: `max_shard_bytes` is not positive, `dtype` is not a floating-point type,
                an active adapter is not merged, or `dtype` is given for a quantised model.
        """
        directory = Path(directory)
        if directory.exists() and not directory.is_dir():
            raise NotADirectoryError(
                explain(
                    "A model is saved into a directory.",
                    fix="Pass the path of a directory, existing or new.",
                    directory=str(directory),
                )
            )
        if max_shard_bytes < 1:
            raise value_error(
                "`max_shard_bytes` must be a positive number of bytes.",
                fix="Leave it out for 5 GB.",
                max_shard_bytes=max_shard_bytes,
            )
        if dtype is not None:
            quantization.require_float(self, "Saving in another `dtype`")
        tensors = stored_tensors(lora.checkpoint_weights(self), dtype)
        dtype = dtype or keras.backend.standardize_dtype(self.variable_dtype)
        config = stored_config(self.config, type(self).__name__, dtype)
        SafetensorsWriter(max_shard_bytes).write(Content(tensors, config), directory)
        self.save_generation_config(directory)

    def load_generation_config(self, files: Repository) -> None:
        """Reads `generation_config.json`, in models that generate."""

    def save_generation_config(self, directory: Path) -> None:
        """Writes `generation_config.json`, in models that generate."""

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of `from_config`, without the weights."""
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

    # Changes to the weights --------------------------------------------------------------------

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

    def num_parameters(self) -> int:
        """Number of weights."""
        return sum(int(np.prod(weight.shape)) for weight in self.weights)
