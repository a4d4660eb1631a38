"""Creates the GGUF files in this folder with llama.cpp's own `gguf` package (made with 0.19.0).

    pip install gguf ml_dtypes
    PYTHONPATH=. python tests/golden/gguf/make_gguf.py

`gguf.tar.xz` holds one file per type of the matrices, `TYPE.gguf`, and `TYPE.npy`, the logits that
the numpy twin computes from the numbers that the package reads back. `blocks.npz` holds random
blocks of every quantised type and their values.
"""

from __future__ import annotations

import tarfile
import tempfile
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type
from gguf import quants

from tests.support import numpy_gpt2

HERE = Path(__file__).parent
CONFIG = {"vocab_size": 34, "n_positions": 16, "n_embd": 32, "n_layer": 2, "n_head": 2}
IDS = np.array([[1, 5, 28, 0, 7, 7], [2, 2, 3, 27, 9, 4]])
TYPES = (Type.F32, Type.F16, Type.BF16, Type.Q8_0, Type.Q4_0)
QUANTISED = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K")
TOKENS = [*"abcdefghijklmnopqrstuvwxyĠ", "th", "the", "Ġthe", "<|endoftext|>", "<user>", "é", ","]
TOKENS += ["[PAD33]"]
TOKEN_TYPES = [1] * 29 + [3, 4] + [1] * 2 + [5]
MERGES = ["t h", "th e", "Ġ the"]
NAMES = {
    "ln_1": "attn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "ln_2": "ffn_norm",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
}


def weights() -> dict[str, np.ndarray]:
    """Weights of few different values, so that the files are small, in transformers' layout."""
    d, sizes = CONFIG["n_embd"], {"attn.c_attn": 3, "attn.c_proj": 1, "mlp.c_fc": 4}
    shapes = {"transformer.wte.weight": (CONFIG["vocab_size"], d)}
    shapes["transformer.wpe.weight"] = (CONFIG["n_positions"], d)
    for i in range(CONFIG["n_layer"]):
        for part in NAMES:
            key, width = f"transformer.h.{i}.{part}", d * sizes.get(part, 1)
            matrix = (4 * d if part == "mlp.c_proj" else d, width)
            shapes[f"{key}.weight"] = (d,) if part.startswith("ln") else matrix
            shapes[f"{key}.bias"] = (width,)
    shapes["transformer.ln_f.weight"] = shapes["transformer.ln_f.bias"] = (d,)
    result = {}
    for i, (key, shape) in enumerate(shapes.items()):
        values = np.round(2 * np.random.RandomState(i).standard_normal(shape)) / 8
        result[key] = (values + (".ln_" in key and key.endswith("weight"))).astype(np.float32)
    return result


def gguf_name(key: str) -> str:
    """llama.cpp's name of a tensor."""
    tables = {"wte": "token_embd", "wpe": "position_embd", "ln_f": "output_norm"}
    words = key.split(".")
    if words[1] == "h":
        return f"blk.{words[2]}.{NAMES['.'.join(words[3:-1])]}.{words[-1]}"
    return f"{tables[words[1]]}.{words[-1]}"


def write(path: Path, kind: Type, repeat_output: bool) -> dict[str, np.ndarray]:
    """Writes a file as `convert_hf_to_gguf.py` does; returns the numbers that are in it."""
    writer = gguf.GGUFWriter(path, "gpt2")
    writer.add_block_count(CONFIG["n_layer"])
    writer.add_context_length(CONFIG["n_positions"])
    writer.add_embedding_length(CONFIG["n_embd"])
    writer.add_feed_forward_length(4 * CONFIG["n_embd"])
    writer.add_head_count(CONFIG["n_head"])
    writer.add_layer_norm_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(TOKENS)
    writer.add_token_types(TOKEN_TYPES)
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(29)
    writer.add_eos_token_id(29)
    stored = {}
    for key, value in weights().items():
        is_projection = value.ndim == 2 and ".h." in key
        array = np.ascontiguousarray(value.T) if is_projection else value
        own = Type.F32 if value.ndim == 1 or key.endswith("wpe.weight") else kind
        data = quants.quantize(array, own)
        names = [gguf_name(key)]
        if repeat_output and key.endswith("wte.weight"):
            names.append("output.weight")
        for name in names:
            writer.add_tensor(name, data, raw_dtype=own)
        array = quants.dequantize(data, own).reshape(array.shape)
        stored[key] = array.T if is_projection else array
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return stored


def main() -> None:
    """Writes `gguf.tar.xz` and `blocks.npz`."""
    with tempfile.TemporaryDirectory() as folder:
        for kind in TYPES:
            # Older converters store the tied output matrix once more.
            stored = write(Path(folder, f"{kind.name}.gguf"), kind, kind != Type.F16)
            twin = numpy_gpt2.NumpyGPT2(CONFIG, stored)
            logits = twin(IDS)["logits"]
            np.save(Path(folder, f"{kind.name}.npy"), logits.astype(np.float32))
        with tarfile.open(HERE / "gguf.tar.xz", "w:xz") as archive:
            for path in sorted(Path(folder).iterdir()):
                archive.add(path, path.name)
    random, blocks = np.random.RandomState(0), {}
    for name in QUANTISED:
        nbytes = gguf.GGML_QUANT_SIZES[Type[name]][1]
        raw = random.randint(0, 256, (4, nbytes)).astype(np.uint8)
        raw[:, [1, 3]] &= 0x3F  # finite scales, which are at one of these places
        raw[:, -1] &= 0x3F
        blocks[name] = raw
        blocks[f"{name}.values"] = quants.dequantize(raw, Type[name])
    np.savez_compressed(HERE / "blocks.npz", **blocks)


if __name__ == "__main__":
    main()
