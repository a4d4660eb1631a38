"""transformers 5's PyTorch GPT-2: eager, or `torch.compile` with a static cache."""

from __future__ import annotations

from typing import Any

import numpy as np
import protocol

MAX_NEW_TOKENS = 64  # of all cases


class PyTorch(protocol.Backend):
    """`GPT2LMHeadModel.generate`; the variant is `eager` or `compile`."""

    def load(self) -> None:
        """Load the checkpoint."""
        import torch
        import transformers

        torch.set_num_threads(protocol.THREADS)
        transformers.logging.set_verbosity_error()
        model = transformers.GPT2LMHeadModel.from_pretrained(self.folder, dtype=torch.float32)
        self._model = model.eval()
        self._options: dict[str, Any] = {"pad_token_id": 0, "eos_token_id": None}
        if self.variant == "compile":
            config = transformers.CompileConfig(fullgraph=False, dynamic=False)
            # transformers' switch to compile on CPUs too.
            config._compile_all_devices = True
            self._options |= {"cache_implementation": "static", "compile_config": config}

    def decode(self, ids: np.ndarray, new: int) -> np.ndarray:
        """Greedy decoding."""
        return self._generate(ids, new, do_sample=False)

    def sample(self, ids: np.ndarray, new: int, top_p: float) -> np.ndarray:
        """Nucleus sampling."""
        return self._generate(ids, new, do_sample=True, top_k=0, top_p=top_p)

    def beam(self, ids: np.ndarray, new: int, beams: int) -> np.ndarray:
        """Beam search."""
        return self._generate(ids, new, do_sample=False, num_beams=beams)

    def _generate(self, ids: np.ndarray, new: int, **how: Any) -> np.ndarray:
        import torch

        ids = torch.tensor(ids, dtype=torch.long)
        if self.variant == "compile":  # one cache size for all lengths: one compilation
            how["max_cache_len"] = ids.shape[1] + max(new, MAX_NEW_TOKENS)
        with torch.inference_mode():
            found = self._model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=new,
                **how,
                **self._options,
            )
        return found[:, ids.shape[1] :].numpy()


if __name__ == "__main__":
    protocol.serve(PyTorch, ["transformers", "torch", "transformers.models.gpt2.modeling_gpt2"])
