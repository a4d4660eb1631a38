"""Our LiteRT exports, run by `tfgpt2.litert` without TensorFlow."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import protocol
import tfgpt2_saved_model

# A file has a fixed number of rows: one, or eight for the cases with eight, whose texts are short.
EXPORTS = {1: {}, 8: {"context": 128, "prompt_buckets": [16, 32]}}


class LiteRT(protocol.Backend):
    """One folder for each number of rows."""

    def _path(self, rows: int) -> Path:
        made = self.folder.parent / f"litert-{self.variant}" / tfgpt2_saved_model.stamp()
        return made / str(rows)

    def prepare(self) -> bool:
        """Export the folders that are missing."""
        missing = [rows for rows in EXPORTS if not self._path(rows).exists()]
        if missing:
            import tfgpt2

            # Exports of older sources.
            if len(missing) == len(EXPORTS):
                shutil.rmtree(self._path(1).parents[1], ignore_errors=True)

            generator = tfgpt2.TextGenerator(
                tfgpt2.TFGPT2LMHeadModel.from_pretrained(self.folder),
                tfgpt2.TFGPT2Tokenizer.from_pretrained(tfgpt2_saved_model.vocabulary()),
            )
            quantize = None if self.variant == "float32" else self.variant
            for rows in missing:
                path, options = self._path(rows), EXPORTS[rows]
                generator.export_litert(path, batch_size=rows, quantize=quantize, **options)
        return bool(missing)

    def load(self) -> None:
        """Load the folder for one row; the other is loaded when it is needed."""
        self._generators: dict[int, Any] = {}
        self._generator(1)

    def _generator(self, rows: int) -> Any:
        if rows not in self._generators:
            from tfgpt2.litert import LiteRTGenerator

            path = self._path(rows)
            self._generators[rows] = LiteRTGenerator.from_pretrained(
                path, threads=protocol.THREADS, cache_dir=path / "cache"
            )
        return self._generators[rows]

    def decode(self, ids: np.ndarray, new: int) -> np.ndarray:
        """Greedy decoding."""
        found = np.zeros([len(ids), new], np.int32)
        with self._generator(len(ids)).engine.texts(ids.tolist()) as texts:
            logits = texts.read()
            for step in range(new):
                found[:, step] = logits.argmax(axis=-1)
                if step + 1 < new:
                    logits = texts.step(found[:, step])
        return found

    def texts(self, batch: int, new: int) -> dict[str, float]:
        """Continue `batch` strings greedily by `new` tokens."""
        generator, prompts = self._generator(batch), [tfgpt2_saved_model.TEXT] * batch
        options = {"max_new_tokens": new, "min_new_tokens": new, "temperature": 0}
        start = time.perf_counter()
        found = generator.generate(prompts, details=True, **options)
        seconds = time.perf_counter() - start
        counts = [len(one.token_ids) for one in found]
        if counts != [new] * batch:
            raise ValueError(f"expected {new} tokens, got {counts}")
        return {"seconds": seconds}


if __name__ == "__main__":
    protocol.serve(LiteRT, ["ai_edge_litert.compiled_model", "tfgpt2.litert"])
