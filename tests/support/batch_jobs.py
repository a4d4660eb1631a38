"""A job without TensorFlow: its model turns texts around; and files with texts."""

import dataclasses
import json
from typing import ClassVar

import numpy as np
import tensorflow as tf

from tfgpt2.batch.job import run_job
from tfgpt2.batch.models import BatchModel
from tfgpt2.batch.settings import JobSettings
from tfgpt2.batch.tasks.base import Task


@dataclasses.dataclass(frozen=True)
class Reverse(Task):
    """Turns texts around; the text "bad" fails. `calls` holds the texts of each batch."""

    name: ClassVar[str] = "reverse"
    signature: ClassVar[str] = "reverse"
    calls: ClassVar[list] = []

    twice: bool = False

    @property
    def result_types(self):
        return {"reversed": "string", "length": "int32"}

    def load(self, name, *, jit_compile=True):
        def function(text):
            texts = text.numpy().tolist()
            self.calls.append(texts)
            return {"reversed": tf.constant([one[::-1] for one in texts])}

        return BatchModel(
            function, {"text": tf.string}, {}, lambda texts: np.array([*map(len, texts)]), name
        )

    load_checkpoint = None

    def result(self, outputs, row):
        text = outputs["reversed"][row].decode("utf-8", "replace")
        if text == "dab":
            raise ValueError("This text is bad.")
        return {"reversed": text * (1 + self.twice), "length": len(text)}


def run_reverse(inputs, output, *, twice=False, model="m", **settings):
    """Runs a job that turns texts around, four rows in a file."""
    settings = JobSettings(**{"rows_per_file": 4, "batch_size": 2} | settings)
    inputs = inputs if isinstance(inputs, list) else [inputs]
    return run_job(Reverse(twice), inputs, output, model=model, settings=settings)


def write_lines(path, rows):
    """Writes rows as JSON Lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read_lines(folder):
    """The rows of all output files, in order."""
    parts = sorted(folder.glob("part-*.jsonl"))
    return [json.loads(line) for part in parts for line in part.read_text().splitlines()]


def contents(folder):
    """Name and bytes of every file of a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}
