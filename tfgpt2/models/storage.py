"""How a model is loaded from a checkpoint and saved as one."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import keras

from tfgpt2.config import GPT2Config
from tfgpt2.errors import explain
from tfgpt2.nn import lora, quantization
from tfgpt2.nn.layers import initial_weights

_MAX_SHARD_BYTES = 5_000_000_000


class StoredModel:
    """The part of a model class that reads and writes files; mixed into `TFGPT2PreTrainedModel`."""

    # Parts that a checkpoint may lack, because the class adds them and fine-tuning makes them.
    head_parts: frozenset[str] = frozenset()

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
        **overrides: Any,
    ) -> Any:
        """Loads a model by directory, bundled name or hub name, in any format.

        The formats are those of `tfgpt2.checkpoints.registry`: safetensors, PyTorch's `.bin`,
        TensorFlow's `.h5`, Flax's msgpack, OpenAI's own, KerasHub presets. None needs its library.

        Args:
            name: `"shakespeare-tiny"` (bundled), a directory, or a hub name such as
                `"openai-community/gpt2"`.
            config: The configuration to use instead of the checkpoint's own.
            dtype: Keras dtype policy; None is Keras' global one (float32 unless changed),
                whatever type the file stores.
            quantize: `"int8"` calls `model.quantize("int8")` after loading; a checkpoint that is
                quantised stays so without it.
            revision: Branch, tag or commit on the hub.
            token: Access token, or True for the stored one.
            cache_dir: Where downloads are kept.
            subfolder: Folder inside the repository.
            local_files_only: Never ask the network.
            force_download: Download again.
            **overrides: Fields of the configuration to change, such as `attn_pdrop=0.0`.

        Raises:
            FileNotFoundError: There is no such model, or it has no weights in a known format.
            ValueError: A file is broken, weights and configuration do not fit, or there is no such
                quantisation.
            TypeError: An override is no field of the configuration.

        Example:
            >>> TFGPT2LMHeadModel = __import__("tfgpt2").TFGPT2LMHeadModel
            >>> TFGPT2LMHeadModel.from_pretrained("shakespeare-tiny").config.n_layer
            6
        """
        from tfgpt2.checkpoints.loader import WeightLoader
        from tfgpt2.checkpoints.registry import load_config, open_checkpoint
        from tfgpt2.hub import Repository

        if quantize is not None:
            quantization.check_mode(quantize)
        where = (revision, token, cache_dir, subfolder, local_files_only, force_download)
        files = Repository(name, *where)
        shown = f"{name}/{subfolder}" if subfolder else str(name)  # in messages
        if config is None:
            config = load_config(files.find, shown, **overrides)
        elif overrides and isinstance(config, GPT2Config):
            config = GPT2Config.from_dict(config.to_dict(), **overrides)
        opened = open_checkpoint(files.find, shown)
        loader = WeightLoader(opened.reader, may_lack=cls.head_parts)
        with initial_weights(loader.read):
            model = cls(config, dtype=dtype)
        loader.check(shown)
        if loader.fresh:
            warnings.warn(
                f"{shown!r} has no {', '.join(loader.fresh)}: freshly initialised, so train"
                f" {cls.__name__} before using its answers.",
                stacklevel=2,
            )
        model.load_settings(files)
        if quantize is not None and not model.is_quantized:
            model.quantize(quantize)
        return model

    def load_settings(self, files: Any) -> None:
        """Reads what a checkpoint says beside its weights.

        Args:
            files: The checkpoint's `tfgpt2.hub.Repository`.
        """

    def save_settings(self, directory: Path) -> None:
        """Writes what `load_settings` reads."""

    def save_pretrained(
        self,
        directory: str | os.PathLike[str],
        *,
        dtype: str | None = None,
        max_shard_bytes: int = _MAX_SHARD_BYTES,
    ) -> None:
        """Writes `config.json` and safetensors weights, which PyTorch transformers loads too.

        A quantised model's file is a quarter of the size and for `from_pretrained` of this package
        alone; see `tfgpt2.nn.quantization` for what it holds.

        New files are written beside those of an earlier save and take their place at the end, so
        that a save that is interrupted leaves the earlier one whole.

        Args:
            directory: Made if need be.
            dtype: Type to store, such as `"float16"`; None is the type the weights have.
            max_shard_bytes: Size above which the weights are split over several files.

        Raises:
            NotADirectoryError: `directory` is a file.
            ValueError: `max_shard_bytes` is not positive, `dtype` is no floating-point type, an
                adapter acts that is not merged, or `dtype` is given for a quantised model.
        """
        from tfgpt2.checkpoints.loader import write_weights

        directory = Path(directory)
        if directory.exists() and not directory.is_dir():
            raise NotADirectoryError(
                explain(
                    "A model is saved into a directory.",
                    fix="Name a directory, or one that can be made.",
                    directory=str(directory),
                )
            )
        if max_shard_bytes < 1:
            raise ValueError(
                explain(
                    "`max_shard_bytes` must be a positive number of bytes.",
                    fix="Leave it out for 5 GB.",
                    max_shard_bytes=max_shard_bytes,
                )
            )
        if dtype is not None:
            quantization.refuse(self, "Saving in another `dtype`")
        weights = lora.storable_weights(self)
        write_weights(weights, directory, dtype=dtype, max_shard_bytes=max_shard_bytes)
        config = GPT2Config.from_dict(self.config.to_dict())
        # The class that PyTorch has under the same name, without our prefix.
        config.architectures = [type(self).__name__.removeprefix("TF")]
        config.dtype = dtype or keras.backend.standardize_dtype(self.variable_dtype)
        config.save_pretrained(directory)
        self.save_settings(directory)
