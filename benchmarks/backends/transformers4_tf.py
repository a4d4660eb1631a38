"""transformers 4.57's TensorFlow GPT-2, `generate` compiled by XLA as its guide describes."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import protocol


class Transformers4(protocol.Backend):
    """`TFGPT2LMHeadModel.generate` under `tf.function(jit_compile=True)`.

    Lengths are static: each number of new tokens is a compilation of its own.
    """

    def prepare(self) -> bool:
        """Convert the checkpoint to `tf_model.h5`.

        The TensorFlow classes of 4.57 cannot read one written by PyTorch: they iterate over a
        `safe_open`, which safetensors does not support.
        """
        self._converted = self.folder.parent / "transformers4"
        if (self._converted / "tf_model.h5").exists():
            return False
        import transformers
        from safetensors.numpy import load_file
        from transformers.modeling_tf_pytorch_utils import load_pytorch_state_dict_in_tf2_model

        config = transformers.GPT2Config.from_pretrained(self.folder)
        model = transformers.TFGPT2LMHeadModel(config)
        tensors = load_file(self.folder / "model.safetensors")
        load_pytorch_state_dict_in_tf2_model(model, tensors, allow_missing_keys=True)
        model.save_pretrained(self._converted, safe_serialization=False)
        return True

    def load(self) -> None:
        """Load the checkpoint."""
        import transformers

        self._model = transformers.TFGPT2LMHeadModel.from_pretrained(str(self._converted))
        self._programs: dict[Any, Any] = {}

    def decode(self, ids: np.ndarray, new: int) -> np.ndarray:
        """Greedy decoding."""
        return self._generate(ids, new)

    def sample(self, ids: np.ndarray, new: int, top_p: float) -> np.ndarray:
        """Nucleus sampling."""
        return self._generate(ids, new, do_sample=True, top_k=0, top_p=top_p, seed=(0, 1))

    def beam(self, ids: np.ndarray, new: int, beams: int) -> np.ndarray:
        """Beam search."""
        return self._generate(ids, new, num_beams=beams)

    def _generate(self, ids: np.ndarray, new: int, **how: Any) -> np.ndarray:
        """Run the compiled function of these options."""
        import tensorflow as tf

        key = (new, *how.items())
        if key not in self._programs:
            fixed = {"eos_token_id": None, "pad_token_id": 0, "max_new_tokens": new, **how}
            self._programs[key] = tf.function(
                lambda ids, mask: self._model.generate(ids, attention_mask=mask, **fixed),
                jit_compile=True,
            )
        mask = np.ones_like(ids)
        found = self._programs[key](tf.constant(ids), tf.constant(mask)).numpy()
        return found[:, ids.shape[1] :]


if __name__ == "__main__":
    os.environ["TF_USE_LEGACY_KERAS"] = "1"
    modules = ["transformers", "tensorflow", "transformers.models.gpt2.modeling_tf_gpt2"]
    protocol.serve(Transformers4, modules)
