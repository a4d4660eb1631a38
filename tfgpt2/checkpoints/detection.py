"""The format of a model's files: which reader opens its weights and its configuration."""

from __future__ import annotations

import re
import warnings

from tfgpt2.checkpoints.readers import linear_layout
from tfgpt2.checkpoints.readers.base import CheckpointReader
from tfgpt2.checkpoints.readers.renamed import RenamedReader
from tfgpt2.checkpoints.registry import READERS
from tfgpt2.checkpoints.tokenizer_files import find_tokenizer_file
from tfgpt2.config import GPT2Config
from tfgpt2.errors import explain, value_error
from tfgpt2.files import try_read_json_object
from tfgpt2.hub import Find

_GPT2_KEYS = (
    re.compile(r"(?:transformer\.)?h\.\d+\.attn\.c_attn\.weight(?:_int8)?"),
    re.compile(r"(?:transformer\.)?wte\.weight(?:_int8)?"),
)
# What wrappers of a model put before its keys: DataParallel, torch.compile, PEFT and trl.
_WRAPPED = re.compile(
    r"((?:(?:module|_orig_mod|base_model\.model|pretrained_model)\.)+)(?:transformer\.)?h\.0\."
)
_OTHERS = {
    r"bert\.": "BERT",
    r"roberta\.": "RoBERTa",
    r"model\.layers\.\d+\.self_attn\.": "Llama, Mistral or another model with rotary positions",
    r"model\.decoder\.layers\.": "OPT or an encoder-decoder",
    r"gpt_neox\.": "GPT-NeoX",
    r"(transformer\.)?h\.\d+\.attn\.attention\.": "GPT-Neo",
    r"(transformer\.)?h\.\d+\.attn\.q_proj\.": "GPT-J",
    r"(transformer\.)?h\.\d+\.self_attention\.": "BLOOM or Falcon",
    r"(encoder|decoder)\.block\.": "T5",
}
_MAX_LISTED = 5  # keys that an error shows


def open_checkpoint(find: Find, name: str = "") -> CheckpointReader:
    """Opens a model's weights, whatever their format.

    Args:
        find: From a file's name to its local path, or None when there is no such file.
        name: The model's name, for errors.

    Returns:
        A reader of the first format in `READERS` whose files exist; its `format` is the name.

    Raises:
        FileNotFoundError: There are no weights in any format, or a shard is missing.
        ValueError: A file is damaged, or holds another architecture.

    Example:
        >>> from tfgpt2.hub import Repository
        >>> open_checkpoint(Repository("shakespeare-tiny").find).format
        'safetensors'
    """
    for kind in READERS:
        reader = kind.from_files(find)
        if reader is not None:
            reader = _without_wrapper(_in_pytorch_names(reader), name)
            _check_architecture(reader, name)
            return linear_layout.in_gpt2_layout(reader)
    files = ", ".join(file for kind in READERS for file in kind.file_names)
    raise FileNotFoundError(
        explain(
            f"The model has no weights in a known format: none of {files}.",
            fix="Name a directory or repository that holds one of these files, or a file of weights"
            " itself, such as model.gguf.",
            name=name,
        )
    )


def load_config(find: Find, name: str = "", **overrides: object) -> GPT2Config:
    """Reads a model's configuration, whatever its format.

    Args:
        find: From a file's name to its local path, or None when there is no such file.
        name: The model's name, for errors.
        **overrides: Fields that replace those in the file.

    Returns:
        The configuration.

    Raises:
        FileNotFoundError: There is no configuration file of any format.
        ValueError: A value is out of range, or the architecture is another one.
        TypeError: An override is not a field of the configuration.
    """
    config_names = list(dict.fromkeys(kind.config_name for kind in READERS))
    for config_name in config_names:
        path = find(config_name)
        if path is None:
            continue
        for kind in READERS:
            fields = kind.read_config(path) if kind.config_name == config_name else None
            if fields is not None:
                return GPT2Config.from_dict(fields | _end_of_text(find), **overrides)
        return GPT2Config.from_json_file(path, **overrides)
    raise FileNotFoundError(
        explain(
            f"The model has no file {' or '.join(map(repr, config_names))}.",
            fix="Point to a directory or repository that holds one, or to a file of weights that"
            " describes its model, such as a GGUF file; or pass `config=`.",
            name=name,
        )
    )


def _end_of_text(find: Find) -> dict[str, int]:
    """Returns the id of <|endoftext|> in the vocabulary, which other formats do not configure."""
    end = try_read_json_object(find_tokenizer_file(find, "vocab.json")).get("<|endoftext|>")
    return {} if end is None else {"bos_token_id": end, "eos_token_id": end}


def _in_pytorch_names(reader: CheckpointReader) -> CheckpointReader:
    """Renames the tensors of a safetensors file that TensorFlow or Flax transformers wrote."""
    for kind in READERS:
        if (rename := kind.renaming(reader.keys())) is not None:
            return RenamedReader(reader, rename)
    return reader


def _without_wrapper(reader: CheckpointReader, name: str) -> CheckpointReader:
    """Removes the prefix of a known wrapper from the keys, with a warning."""
    match = next(filter(None, map(_WRAPPED.match, reader.keys())), None)
    if match is None:
        return reader
    prefix = match[1]
    warnings.warn(
        f"The keys of {name!r} begin with {prefix!r}, the name of a wrapper; it is removed.",
        stacklevel=4,
    )
    return RenamedReader(reader, lambda key: (key.removeprefix(prefix), False))


def _check_architecture(reader: CheckpointReader, name: str) -> None:
    """Raises ValueError when the keys are not those of GPT-2."""
    keys = reader.keys()
    if all(any(map(pattern.fullmatch, keys)) for pattern in _GPT2_KEYS):
        return
    others = [label for start, label in _OTHERS.items() if any(re.match(start, k) for k in keys)]
    wrapped = next((key for key in keys if re.search(r"\.h\.\d+\.attn\.c_attn\.weight$", key)), "")
    if wrapped:
        fix = f"Remove {wrapped.split('transformer.')[0].split('h.')[0]!r} from the keys."
    else:
        fix = "Point to a GPT-2 model."
    raise value_error(
        "The checkpoint holds another architecture; this package loads GPT-2"
        + (f", and it looks like {others[0]}." if others else "."),
        fix=fix,
        path=str(reader.path),
        first_keys=keys[:_MAX_LISTED],
        name=name,
    )
