"""A string-to-string SavedModel, run with TensorFlow and TF Text only."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import protocol

# 18 GPT-2 tokens, padded to a bucket of 32: the prompt length of the other cases.
TEXT = "It is a truth universally acknowledged, that a single man in possession of a good fortune,"
EXPORT = """
import sys, tfgpt2
model, vocabulary, path, weights = sys.argv[1:]
generator = tfgpt2.TextGenerator(
    tfgpt2.TFGPT2LMHeadModel.from_pretrained(model),
    tfgpt2.TFGPT2Tokenizer.from_pretrained(vocabulary),
    prompt_buckets=[32], output_buckets=[64], on_long_prompt="truncate_left")
generator.export(path, signatures=["generate"], weights=weights, batch_sizes=[1, 8], check=False)
"""


class SavedModel(protocol.Backend):
    """The signature `generate`; the variant is the type of the stored weights."""

    def prepare(self) -> bool:
        """Export in another process; this one does not import the package."""
        self._path = self.folder.parent / f"export-{self.variant}" / stamp() / "1"
        if self._path.exists():
            return False
        shutil.rmtree(
            self._path.parent.parent, ignore_errors=True
        )  # exports made from older sources
        arguments = [self.folder, vocabulary(), self._path, self.variant]
        subprocess.run([sys.executable, "-c", EXPORT, *map(str, arguments)], check=True)
        return True

    def load(self) -> None:
        """Load the SavedModel."""
        import tensorflow as tf

        self._loaded = tf.saved_model.load(str(self._path))

    def texts(self, batch: int, new: int) -> dict[str, float]:
        """Continue `batch` strings greedily by `new` tokens."""
        import tensorflow as tf

        limit = tf.constant([new])
        options = {"max_new_tokens": limit, "min_new_tokens": limit}
        start = time.perf_counter()
        found = self._loaded.generate(
            tf.constant([TEXT] * batch), temperature=tf.constant([0.0]), **options
        )
        counts = found["num_tokens"].numpy().tolist()
        seconds = time.perf_counter() - start
        if counts != [new] * batch:
            raise ValueError(f"expected {new} tokens, got {counts}")
        return {"seconds": seconds}


def stamp() -> str:
    """Hash of the package sources, so that an outdated export is never measured."""
    import hashlib

    package = Path(__file__).resolve().parents[2] / "tfgpt2"
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def vocabulary() -> Path | str:
    """GPT-2's vocabulary if the test data is available, else the bundled one."""
    root = Path(__file__).resolve().parents[2]
    data = Path(os.environ.get("TFGPT2_TEST_DATA") or root.parent / "shared" / "data")
    found = data / "gpt2_vocab"
    return found if found.is_dir() else "shakespeare-tiny"


if __name__ == "__main__":
    protocol.serve(SavedModel, ["tensorflow", "tensorflow_text"])
