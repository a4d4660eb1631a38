"""A SavedModel of this package, from string to string, run with TensorFlow and TF Text alone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import protocol

# 18 tokens of GPT-2: padded to the bucket of 32, the prompt of the other cases.
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


class Exported(protocol.Peer):
    """Its signature `generate`; the variant is the type of the stored weights."""

    def prepare(self) -> bool:
        """Exports, in another process: this one does not know the package."""
        self._path = self.folder.parent / f"export-{self.variant}" / stamp() / "1"
        if self._path.exists():
            return False
        shutil.rmtree(self._path.parent.parent, ignore_errors=True)  # exports of older sources
        arguments = [self.folder, vocabulary(), self._path, self.variant]
        subprocess.run([sys.executable, "-c", EXPORT, *map(str, arguments)], check=True)
        return True

    def load(self) -> None:
        """Loads the SavedModel."""
        import tensorflow as tf

        self._loaded = tf.saved_model.load(str(self._path))

    def size(self) -> dict[str, float]:
        """The bytes of the export, in MB."""
        files = [path for path in self._path.rglob("*") if path.is_file()]
        return {"export_mb": sum(path.stat().st_size for path in files) / 1e6}

    def texts(self, batch: int, new: int) -> dict[str, float]:
        """Continues `batch` strings greedily by `new` tokens."""
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
            raise ValueError(f"asked for {new} tokens, got {counts}")
        return {"seconds": seconds, "prompt_tokens": int(found["prompt_tokens"].numpy()[0])}


def stamp() -> str:
    """A name that changes with the source, so that an old export is not measured."""
    import hashlib

    package = Path(__file__).resolve().parents[2] / "tfgpt2"
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def vocabulary() -> Path | str:
    """GPT-2's own vocabulary where the real inputs lie, else the bundled one."""
    root = Path(__file__).resolve().parents[2]
    data = Path(os.environ.get("TFGPT2_TEST_DATA") or root.parent / "shared" / "data")
    found = data / "gpt2_vocab"
    return found if found.is_dir() else "shakespeare-tiny"


if __name__ == "__main__":
    protocol.serve(Exported, ["tensorflow", "tensorflow_text"])
