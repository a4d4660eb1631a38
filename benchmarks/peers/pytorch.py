"""transformers 5's PyTorch GPT-2: eager, and with `torch.compile` and a static cache."""

from __future__ import annotations

from typing import Any

import numpy as np
import protocol

LONGEST = 64  # tokens that the cases add


class PyTorch(protocol.Peer):
    """`GPT2LMHeadModel.generate`; the variant is `eager` or `compile`."""

    def load(self) -> None:
        """Loads the checkpoint."""
        import torch
        import transformers

        torch.set_num_threads(protocol.THREADS)
        transformers.logging.set_verbosity_error()
        model = transformers.GPT2LMHeadModel.from_pretrained(self.folder, dtype=torch.float32)
        self._model = model.eval()
        self._options: dict[str, Any] = {"pad_token_id": 0, "eos_token_id": None}
        if self.variant == "compile":
            config = transformers.CompileConfig(fullgraph=False, dynamic=False)
            # transformers compiles by itself on accelerators only; this is its own switch.
            config._compile_all_devices = True
            self._options |= {"cache_implementation": "static", "compile_config": config}

    def decode(self, ids: np.ndarray, new: int) -> np.ndarray:
        """Greedy."""
        return self._generate(ids, new, do_sample=False)

    def sample(self, ids: np.ndarray, new: int, top_p: float) -> np.ndarray:
        """Draws from the nucleus."""
        return self._generate(ids, new, do_sample=True, top_k=0, top_p=top_p)

    def beam(self, ids: np.ndarray, new: int, beams: int) -> np.ndarray:
        """Beam search."""
        return self._generate(ids, new, do_sample=False, num_beams=beams)

    def _generate(self, ids: np.ndarray, new: int, **how: Any) -> np.ndarray:
        import torch

        ids = torch.tensor(ids, dtype=torch.long)
        if self.variant == "compile":  # one size of the cache for all lengths: one program
            how["max_cache_len"] = ids.shape[1] + max(new, LONGEST)
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
