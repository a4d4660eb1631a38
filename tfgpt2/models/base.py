"""The base class of the models: the call that all heads share, files."""

from __future__ import annotations

import copy
import functools
import os
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from tfgpt2.checkpoints.detection import open_checkpoint
from tfgpt2.checkpoints.loader import WeightLoader
from tfgpt2.checkpoints.single_file import open_repository
from tfgpt2.checkpoints.writers.base import Content, stored_config, stored_tensors
from tfgpt2.config import GPT2Config
from tfgpt2.errors import explain, type_error
from tfgpt2.hub import HubOptions, Repository, check_no_upload
from tfgpt2.models.call_arguments import unpack
from tfgpt2.models.call_inputs import CHECKED, CallInputs, check_inputs
from tfgpt2.models.call_outputs import optional_outputs
from tfgpt2.models.keras_export import ForwardPass, export_signature
from tfgpt2.models.loading import (
    check_remote_code,
    choose_config,
    find_weights,
    loading_info,
    warn_about,
)
from tfgpt2.models.memory import check_memory
from tfgpt2.models.model_methods import ModelMethods
from tfgpt2.models.saving import weight_writer
from tfgpt2.nn import lora, quantization
from tfgpt2.nn.backbone import ForwardOutputs, GPT2Transformer
from tfgpt2.nn.layers import initial_weights, nan_outside, nan_where
from tfgpt2.outputs import ModelOutput


class TFGPT2PreTrainedModel(ModelMethods):
    """Base class of all GPT-2 models; it has no `call` of its own.

    A model's weights exist from the moment it is made: their shapes follow from the
    configuration. A call takes its inputs as keywords, as one dict (what the tokenizer returns),
    or as a list `[input_ids, attention_mask, token_type_ids]`. On Keras' symbolic inputs, for a
    functional model, there is no cache unless `use_cache=True`.

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
        check_memory(config, self.dtype_policy.variable_dtype)
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
        arguments = unpack(self, inputs, args, kwargs)
        symbolic = any(isinstance(value, keras.KerasTensor) for value in arguments.values())
        if symbolic and self.returns_cache:
            # Keras' own `export` takes no nested results, and `predict` would join the caches.
            arguments.setdefault("use_cache", False)
        return super().__call__(**arguments)

    def run(self, arguments: dict[str, Any]) -> ModelOutput | tuple[Any, ...]:
        """Implements every model's `call`: transformer, head, optional outputs.

        Args:
            arguments: The arguments of `call` by name: its `locals()`.
        """
        checked = {name: arguments[name] for name in CHECKED if name in arguments}
        inputs, outputs = self.encode(arguments["training"], **checked)
        result = self.forward(inputs, outputs, arguments)
        if self.is_quantized and not tf.executing_eagerly():
            # Rounding to int8 loses the NaN of an id that is out of range.
            wrong = self._wrong_rows(inputs)
            marked = {n: nan_where(x, wrong) for n, x in result.items() if x is not None}
            result = type(result)(result | marked)
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
            embeddings = nan_outside(embeddings, inputs.ids, self.config.vocab_size)
        # NaN spreads to all results of a row. `generate`, which checks prompts, does without.
        embeddings = nan_outside(embeddings, inputs.positions, self.config.n_positions)
        if inputs.token_type_ids is not None:
            embeddings = nan_outside(embeddings, inputs.token_type_ids, self.config.vocab_size)
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

    def _wrong_rows(self, inputs: CallInputs) -> tf.Tensor:
        """Rows with an id or a position out of range: bool, the leading axes of the text."""
        ids = [inputs.positions, inputs.ids, inputs.token_type_ids]
        limits = [self.config.n_positions, self.config.vocab_size, self.config.vocab_size]
        wrong = [
            tf.reduce_any((x < 0) | (x >= limit), axis=1)  # [B] or [1]
            for x, limit in zip(ids, limits, strict=True)
            if x is not None
        ]
        rows = functools.reduce(tf.logical_or, wrong)
        rows = tf.broadcast_to(rows, [tf.reduce_prod(inputs.shape[:-1])])  # [B]
        rows = tf.reshape(rows, inputs.shape[:-1])
        return tf.ensure_shape(rows, inputs.static_shape[:-1])

    # Files -------------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        *,
        config: GPT2Config | str | os.PathLike[str] | None = None,
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
        output_loading_info: bool = False,
        use_safetensors: bool | None = None,
        trust_remote_code: bool | None = None,
        from_pt: bool = False,
        low_cpu_mem_usage: bool | None = None,
        **overrides: Any,
    ) -> Any:
        """Loads a model by directory, bundled name, hub name or file, in any format.

        The formats are those of `tfgpt2.checkpoints.registry`: safetensors, PyTorch's `.bin`,
        TensorFlow's `.h5`, Flax's msgpack, OpenAI's own, KerasHub presets, nanoGPT's `ckpt.pt`,
        minGPT's `model.pt`, llm.c's `.bin`, GGUF. None needs its library.

        Args:
            pretrained_model_name_or_path: `"shakespeare-tiny"` (bundled), a directory, a file of
                weights, or a hub name such as `"openai-community/gpt2"`.
            config: The configuration to use instead of the checkpoint's own, or the name of a model
                or file that has it.
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
            output_loading_info: Return the model and a dict of `missing_keys`, `unexpected_keys`,
                `mismatched_keys` (key, shape in the file, shape in the model) and `error_msgs`.
            use_safetensors: True reads safetensors only, False every other format.
            trust_remote_code: As in transformers, for models without code of their own; those with
                such code raise, since none is loaded from a repository.
            from_pt: As in transformers 4, where it was needed for PyTorch's files. Changes nothing:
                they come first of all formats, and every format is recognised.
            low_cpu_mem_usage: As in transformers. Changes nothing: weights are always read one by
                one into their final memory.
            **overrides: Fields of the configuration to change, such as `attn_pdrop=0.0`.

        Returns:
            The model, or with `output_loading_info` the model and the dict.

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
        name = pretrained_model_name_or_path
        files = open_repository(name, options)
        shown = f"{name}/{subfolder}" if subfolder else str(name)  # in messages
        config = choose_config(config, files, shown, options, overrides)
        check_remote_code(config, trust_remote_code)
        loader = WeightLoader(
            open_checkpoint(find_weights(files.find, use_safetensors, shown), shown),
            may_lack=cls.head_parts,
            ignore_mismatched_sizes=ignore_mismatched_sizes,
        )
        if isinstance(config, GPT2Config) and not ignore_mismatched_sizes:
            loader.check_sizes(config, shown)
        with initial_weights(loader.read):
            model = cls(config, dtype=dtype)
        loader.check(shown)
        warn_about(loader, shown, cls.__name__)
        model.name_or_path = str(name)
        model.load_generation_config(files)
        if quantize is not None and not model.is_quantized:
            model.quantize(quantize)
        return (model, loading_info(loader)) if output_loading_info else model

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        *,
        saved_model: bool = False,
        version: int = 1,
        push_to_hub: bool = False,
        max_shard_size: int | str = "5GB",
        safe_serialization: bool = True,
        dtype: str | None = None,
    ) -> None:
        """Writes `config.json` and safetensors weights, which PyTorch transformers loads too.

        A quantised model's file is a quarter of the size, and only this package's
        `from_pretrained` reads it; see `tfgpt2.nn.quantization` for its tensors.

        New files are written next to those of an earlier save and replace them at the end, so an
        interrupted save leaves the earlier one intact.

        Args:
            save_directory: Created if it does not exist.
            saved_model: Write a SavedModel into `saved_model/<version>`, too: the forward pass, as
                `export` writes it.
            version: The number of that folder.
            push_to_hub: False, as uploading is a step of its own.
            max_shard_size: Size above which the weights are split over several files: bytes, or a
                text such as `"200MB"`.
            safe_serialization: False writes one `tf_model.h5` instead, as transformers 4's
                TensorFlow classes do by default.
            dtype: Type to store, such as `"float16"`; None is the type of the weights.

        Raises:
            NotADirectoryError: `save_directory` is a file.
            ValueError: `max_shard_size` is not a size, `dtype` is not a floating-point type,
                an active adapter is not merged, `dtype` is given for a quantised model, or
                `push_to_hub` is set.
        """
        directory = Path(save_directory)
        check_no_upload(push_to_hub)
        writer = weight_writer(max_shard_size, safe_serialization)
        if directory.exists() and not directory.is_dir():
            raise NotADirectoryError(
                explain(
                    "A model is saved into a directory.",
                    fix="Pass the path of a directory, existing or new.",
                    save_directory=str(directory),
                )
            )
        if dtype is not None:
            quantization.require_float(self, "Saving in another `dtype`")
        tensors = stored_tensors(lora.checkpoint_weights(self), dtype)
        dtype = dtype or keras.backend.standardize_dtype(self.variable_dtype)
        config = stored_config(self.config, type(self).__name__, dtype)
        writer.write(Content(tensors, config), directory)
        self.save_generation_config(directory)
        if saved_model:
            self.export(directory / "saved_model" / str(version), verbose=False)

    def export(
        self,
        filepath: str | os.PathLike[str],
        format: str = "tf_saved_model",
        verbose: bool | None = None,
        input_signature: Any = None,
        **kwargs: Any,
    ) -> None:
        """Writes the forward pass, ids to scores, in one of the formats of `keras.Model.export`.

        The outputs are the tensors that a call returns, without the cache. For strings to strings
        use `TextGenerator.export`, and `tfgpt2.export_task` for the other heads.

        Args:
            filepath: See `keras.Model.export`.
            format: See `keras.Model.export`.
            verbose: See `keras.Model.export`.
            input_signature: A list of the arguments of `serve`: one spec (`keras.InputSpec`,
                `tf.TensorSpec` or a tensor) of the ids, several in documented order, or one dict
                of specs by name; None is `input_ids` and `attention_mask`, int32 `[B, T]`, by
                name.
            **kwargs: See `keras.Model.export`.

        Raises:
            TypeError: The signature names an input that the model does not have.
            ValueError: A spec has no shape.
        """
        signature = export_signature(self._export_inputs, input_signature)
        ForwardPass(self).export(filepath, format, verbose, signature, **kwargs)

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
