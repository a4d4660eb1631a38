"""Our LiteRT exports, run by `tfgpt2.litert` without TensorFlow."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import protocol
import tfgpt2_saved_model

# A file has a fixed number of rows: the cases with one row, and `decode-8`, whose texts are short.
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
        self._engines: dict[int, Any] = {}
        self._engine(1)

    def _engine(self, rows: int) -> Any:
        if rows not in self._engines:
            from tfgpt2.litert.contract import Contract
            from tfgpt2.litert.engine import Engine

            path = self._path(rows)
            self._engines[rows] = Engine(
                path, Contract.read(path), threads=protocol.THREADS, cache_dir=path / "cache"
            )
        return self._engines[rows]

    def decode(self, ids: np.ndarray, new: int) -> np.ndarray:
        """Greedy decoding."""
        found = np.zeros([len(ids), new], np.int32)
        with self._engine(len(ids)).texts(ids.tolist()) as texts:
            logits = texts.read()
            for step in range(new):
                found[:, step] = logits.argmax(axis=-1)
                if step + 1 < new:
                    logits = texts.step(found[:, step])
        return found


if __name__ == "__main__":
    protocol.serve(LiteRT, ["ai_edge_litert.compiled_model", "tfgpt2.litert"])
