"""CTranslate2 in float32, and in int8 with dynamically quantized activations."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import protocol


class CTranslate2(protocol.Backend):
    """`Generator.generate_batch`; token strings are the decimal ids."""

    def prepare(self) -> bool:
        """Convert the checkpoint once; the compute type is chosen at loading."""
        self._converted = self.folder.parent / "ctranslate2"
        if (self._converted / "model.bin").exists():
            return False
        convert(self.folder, self._converted)
        return True

    def load(self) -> None:
        """Load the model."""
        import ctranslate2

        self._generator = ctranslate2.Generator(
            str(self._converted),
            device="cpu",
            compute_type=self.variant,
            inter_threads=1,
            intra_threads=protocol.THREADS,
        )

    def decode(self, ids: np.ndarray, new: int) -> np.ndarray:
        """Greedy decoding."""
        return self._generate(ids, new)

    def sample(self, ids: np.ndarray, new: int, top_p: float) -> np.ndarray:
        """Nucleus sampling."""
        return self._generate(ids, new, sampling_topk=0, sampling_topp=top_p)

    def beam(self, ids: np.ndarray, new: int, beams: int) -> np.ndarray:
        """Beam search."""
        return self._generate(ids, new, beam_size=beams)

    def _generate(self, ids: np.ndarray, new: int, **how: Any) -> np.ndarray:
        found = self._generator.generate_batch(
            [[str(token) for token in row] for row in ids],
            max_length=new,
            include_prompt_in_result=False,
            **how,
        )
        return np.array([result.sequences_ids[0] for result in found])


def convert(folder: Any, target: Any) -> None:
    """Write the checkpoint in CTranslate2's format, without transformers and torch."""
    from ctranslate2.specs import common_spec, transformer_spec
    from safetensors.numpy import load_file

    config = json.loads((folder / "config.json").read_text())
    tensors = {
        key.removeprefix("transformer."): value
        for key, value in load_file(folder / "model.safetensors").items()
    }
    spec = transformer_spec.TransformerDecoderModelSpec.from_config(
        config["n_layer"],
        config["n_head"],
        pre_norm=True,
        activation=common_spec.Activation.GELUTanh,
    )
    decoder = spec.decoder
    decoder.scale_embeddings = False
    decoder.embeddings.weight = tensors["wte.weight"]
    decoder.position_encodings.encodings = tensors["wpe.weight"]
    decoder.projection.weight = tensors["wte.weight"]

    def norm(target: Any, name: str) -> None:
        target.gamma, target.beta = tensors[f"{name}.weight"], tensors[f"{name}.bias"]

    def linear(target: Any, name: str) -> None:
        target.weight = np.ascontiguousarray(tensors[f"{name}.weight"].T)  # [out, in]
        target.bias = tensors[f"{name}.bias"]

    norm(decoder.layer_norm, "ln_f")
    for number, layer in enumerate(decoder.layer):
        block = f"h.{number}"
        norm(layer.self_attention.layer_norm, f"{block}.ln_1")
        linear(layer.self_attention.linear[0], f"{block}.attn.c_attn")
        linear(layer.self_attention.linear[1], f"{block}.attn.c_proj")
        norm(layer.ffn.layer_norm, f"{block}.ln_2")
        linear(layer.ffn.linear_0, f"{block}.mlp.c_fc")
        linear(layer.ffn.linear_1, f"{block}.mlp.c_proj")
    size = config["vocab_size"]
    spec.register_vocabulary([str(token) for token in range(size)])
    # The last token stands for all special ones; its embedding is zero, so it is never generated.
    last = str(size - 1)
    spec.config.bos_token = spec.config.eos_token = spec.config.unk_token = last
    spec.validate()
    target.mkdir(parents=True, exist_ok=True)
    spec.save(str(target))


if __name__ == "__main__":
    protocol.serve(CTranslate2, ["ctranslate2"])
