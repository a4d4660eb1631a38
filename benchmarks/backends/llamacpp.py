"""llama.cpp through llama-cpp-python's low-level interface: float32 and Q8_0."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import protocol

MAX_NEW_TOKENS = 64  # of all cases


class LlamaCpp(protocol.Backend):
    """`llama_decode` on all rows at once; the variant is `float32` or `Q8_0`.

    The float32 variant has a float32 KV cache, so that its tokens are comparable; Q8_0 has
    llama.cpp's default, float16. The context is kept until the shape changes.
    """

    def prepare(self) -> bool:
        """Convert the checkpoint."""
        self._file = self.folder.parent / f"llama-{self.variant.lower()}.gguf"
        if self._file.exists():
            return False
        convert(self.folder, self._file, self.variant)
        return True

    def load(self) -> None:
        """Load the model."""
        import llama_cpp

        self._llama = llama_cpp
        self._keep_quiet = llama_cpp.llama_log_callback(lambda *_: None)
        llama_cpp.llama_log_set(self._keep_quiet, None)
        llama_cpp.llama_backend_init()
        options = llama_cpp.llama_model_default_params()
        options.n_gpu_layers = 0
        self._model = llama_cpp.llama_model_load_from_file(str(self._file).encode(), options)
        if not self._model:
            raise RuntimeError(f"llama.cpp did not load {self._file.name}")
        self._size = json.loads((self.folder / "config.json").read_text())["vocab_size"]
        self._context: tuple[Any, Any] = (None, None)

    def decode(self, ids: np.ndarray, new: int) -> np.ndarray:
        """Greedy decoding; the argmax is NumPy's."""
        return self._generate(ids, new, lambda context, rows: self._logits(rows).argmax(-1))

    def sample(self, ids: np.ndarray, new: int, top_p: float) -> np.ndarray:
        """Nucleus sampling with llama.cpp's sampler chain."""
        llama = self._llama
        chain = llama.llama_sampler_chain_init(llama.llama_sampler_chain_default_params())
        llama.llama_sampler_chain_add(chain, llama.llama_sampler_init_top_p(top_p, 1))
        llama.llama_sampler_chain_add(chain, llama.llama_sampler_init_dist(0))
        try:
            return self._generate(
                ids,
                new,
                lambda context, rows: np.array(
                    [llama.llama_sampler_sample(chain, context, row) for row in rows]
                ),
            )
        finally:
            llama.llama_sampler_free(chain)

    def _logits(self, rows: list[int]) -> np.ndarray:
        """Logits `[B, V]` of entries of the last batch."""
        context = self._context[1]
        return np.stack(
            [
                np.ctypeslib.as_array(self._llama.llama_get_logits_ith(context, row), (self._size,))
                for row in rows
            ]
        )

    def _ready(self, rows: int, columns: int) -> Any:
        """A context with an empty KV cache for a shape."""
        llama, (shape, context) = self._llama, self._context
        if shape == (rows, columns):
            llama.llama_memory_clear(llama.llama_get_memory(context), True)
            return context
        if context is not None:
            llama.llama_free(context)
        options = llama.llama_context_default_params()
        options.n_ctx = rows * columns
        options.n_batch = max(2048, rows * columns)
        options.n_seq_max = rows
        options.n_threads = options.n_threads_batch = protocol.THREADS
        if self.variant == "float32":
            options.type_k = options.type_v = llama.GGML_TYPE_F32
        context = llama.llama_init_from_model(self._model, options)
        if not context:
            raise RuntimeError(f"llama.cpp made no context for {(rows, columns)}")
        self._context = ((rows, columns), context)
        return context

    def _generate(self, ids: np.ndarray, new: int, choose: Any) -> np.ndarray:
        llama, (rows, prompt) = self._llama, ids.shape
        columns = -(-(prompt + max(new, MAX_NEW_TOKENS)) // 256) * 256
        context = self._ready(rows, columns)
        batch = llama.llama_batch_init(rows * prompt, 0, 1)
        try:
            positions = np.tile(np.arange(prompt), rows)
            self._fill(batch, ids.reshape(-1), positions, np.repeat(np.arange(rows), prompt),
                       positions == prompt - 1)  # fmt: skip
            last = [prompt * (row + 1) - 1 for row in range(rows)]
            found = np.zeros((rows, new), np.int32)
            for step in range(new):
                if llama.llama_decode(context, batch):
                    raise RuntimeError(f"llama_decode failed at step {step}")
                found[:, step] = choose(context, last)
                last = list(range(rows))
                self._fill(batch, found[:, step], np.full(rows, prompt + step), np.arange(rows),
                           np.ones(rows, bool))  # fmt: skip
            return found
        finally:
            llama.llama_batch_free(batch)

    @staticmethod
    def _fill(batch: Any, ids: Any, positions: Any, rows: Any, wanted: Any) -> None:
        """Write tokens, positions, rows, and which logits are wanted."""
        batch.n_tokens = len(ids)
        for i, (token, position, row, want) in enumerate(
            zip(ids.tolist(), positions.tolist(), rows.tolist(), wanted.tolist(), strict=True)
        ):
            batch.token[i], batch.pos[i], batch.logits[i] = token, position, want
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, row


def convert(folder: Path, target: Path, variant: str) -> None:
    """Write the checkpoint as GGUF; the variant Q8_0 quantizes the matrices."""
    import gguf
    from gguf.quants import quantize
    from safetensors.numpy import load_file

    config = json.loads((folder / "config.json").read_text())
    part = target.with_suffix(".part")
    writer = gguf.GGUFWriter(part, "gpt2")
    writer.add_block_count(config["n_layer"])
    writer.add_context_length(config["n_positions"])
    writer.add_embedding_length(config["n_embd"])
    writer.add_feed_forward_length(4 * config["n_embd"])
    writer.add_head_count(config["n_head"])
    writer.add_layer_norm_eps(config["layer_norm_epsilon"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("none")
    kinds = gguf.GGMLQuantizationType
    for key, value in load_file(folder / "model.safetensors").items():
        name = gguf_name(key.removeprefix("transformer."))
        if value.ndim == 2 and key.split(".")[-2] not in ("wte", "wpe"):
            value = np.ascontiguousarray(value.T)  # [out, in]
        if variant == "Q8_0" and value.ndim == 2 and "wpe" not in key:
            writer.add_tensor(name, quantize(value, kinds.Q8_0), raw_dtype=kinds.Q8_0)
        else:
            writer.add_tensor(name, value.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    part.rename(target)


def gguf_name(key: str) -> str:
    """GGUF name of a tensor: `h.3.attn.c_attn.weight` is `blk.3.attn_qkv.weight`."""
    whole = {"wte": "token_embd", "wpe": "position_embd", "ln_f": "output_norm"}
    parts = {"ln_1": "attn_norm", "attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output",
             "ln_2": "ffn_norm", "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down"}  # fmt: skip
    layer, kind = key.rsplit(".", 1)
    if layer in whole:
        return f"{whole[layer]}.{kind}"
    _, number, inner = layer.split(".", 2)
    return f"blk.{number}.{parts[inner]}.{kind}"


if __name__ == "__main__":
    protocol.serve(LlamaCpp, ["llama_cpp"])
