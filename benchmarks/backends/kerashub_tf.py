"""KerasHub's GPT-2 on TensorFlow with XLA."""

from __future__ import annotations

import json

import numpy as np
import protocol


class KerasHub(protocol.Backend):
    """`GPT2CausalLM.generate` on ids, one compiled function per sampler and shape."""

    def load(self) -> None:
        """Build the model and load the checkpoint."""
        import keras_hub
        from safetensors.numpy import load_file

        config = json.loads((self.folder / "config.json").read_text())
        width, heads = config["n_embd"], config["n_head"]
        backbone = keras_hub.models.GPT2Backbone(
            vocabulary_size=config["vocab_size"],
            num_layers=config["n_layer"],
            num_heads=heads,
            hidden_dim=width,
            intermediate_dim=4 * width,
            max_sequence_length=config["n_positions"],
            dropout=0.0,
        )
        tensors = load_file(self.folder / "model.safetensors")
        copy(backbone, {k.removeprefix("transformer."): v for k, v in tensors.items()}, heads)
        self._model = keras_hub.models.GPT2CausalLM(backbone=backbone, preprocessor=None)
        self._programs: dict[object, object] = {}

    def decode(self, ids: np.ndarray, new: int) -> np.ndarray:
        """Greedy decoding."""
        return self._generate("greedy", ids, new)

    def sample(self, ids: np.ndarray, new: int, top_p: float) -> np.ndarray:
        """Nucleus sampling, for which KerasHub sorts the vocabulary."""
        return self._generate(("top_p", top_p), ids, new)

    def beam(self, ids: np.ndarray, new: int, beams: int) -> np.ndarray:
        """Beam search."""
        return self._generate(("beam", beams), ids, new)

    def _generate(self, how: object, ids: np.ndarray, new: int) -> np.ndarray:
        """Run a sampler's compiled function; `compile` would drop those of the other samplers."""
        from keras_hub import samplers

        model = self._model
        if how not in self._programs:
            kind, value = how if isinstance(how, tuple) else (how, None)
            model.compile(
                sampler={
                    "greedy": lambda: "greedy",
                    "top_p": lambda: samplers.TopPSampler(p=value, seed=0),
                    "beam": lambda: samplers.BeamSampler(num_beams=value),
                }[kind](),
                jit_compile=True,
            )
            self._programs[how] = (model.sampler, model.make_generate_function())
        # The traced function reads `model.sampler` whenever a new shape is traced.
        model.sampler, model.generate_function = self._programs[how]
        columns = ids.shape[1] + new
        tokens = np.zeros((len(ids), columns), np.int32)
        tokens[:, : ids.shape[1]] = ids
        mask = np.zeros_like(tokens)
        mask[:, : ids.shape[1]] = 1
        found = model.generate({"token_ids": tokens, "padding_mask": mask}, stop_token_ids=None)
        return np.asarray(found["token_ids"])[:, ids.shape[1] :]


def copy(backbone: object, tensors: dict[str, np.ndarray], heads: int) -> None:
    """Copy the checkpoint's weights into KerasHub's layers, whose kernels are split by head."""
    backbone.token_embedding.embeddings.assign(tensors["wte.weight"])
    backbone.position_embedding.position_embeddings.assign(tensors["wpe.weight"])
    for number, layer in enumerate(backbone.transformer_layers):
        block = {
            key.removeprefix(f"h.{number}."): value
            for key, value in tensors.items()
            if key.startswith(f"h.{number}.")
        }
        attention, width = layer._self_attention_layer, len(block["ln_1.weight"])
        dense = (attention.query_dense, attention.key_dense, attention.value_dense)
        kernels = np.split(block["attn.c_attn.weight"], 3, axis=1)
        biases = np.split(block["attn.c_attn.bias"], 3)
        for part, kernel, bias in zip(dense, kernels, biases, strict=True):
            part.kernel.assign(kernel.reshape(width, heads, -1))  # [D, N, H]
            part.bias.assign(bias.reshape(heads, -1))  # [N, H]
        attention.output_dense.kernel.assign(
            block["attn.c_proj.weight"].reshape(heads, -1, width)  # [N, H, D]
        )
        attention.output_dense.bias.assign(block["attn.c_proj.bias"])
        for norm, name in (
            (layer._self_attention_layer_norm, "ln_1"),
            (layer._feedforward_layer_norm, "ln_2"),
        ):
            norm.gamma.assign(block[f"{name}.weight"])
            norm.beta.assign(block[f"{name}.bias"])
        for part, name in (
            (layer._feedforward_intermediate_dense, "mlp.c_fc"),
            (layer._feedforward_output_dense, "mlp.c_proj"),
        ):
            part.kernel.assign(block[f"{name}.weight"])
            part.bias.assign(block[f"{name}.bias"])
    backbone.layer_norm.gamma.assign(tensors["ln_f.weight"])
    backbone.layer_norm.beta.assign(tensors["ln_f.bias"])


if __name__ == "__main__":
    protocol.serve(KerasHub, ["keras_hub"])
