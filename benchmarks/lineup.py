"""What is compared: the programs (rows), and the work they are given (cases)."""

from __future__ import annotations

import dataclasses
from typing import Any

from environments import OWN

BASELINE = "tfgpt2 float32"


@dataclasses.dataclass(frozen=True)
class Row:
    """One program of the table.

    Attributes:
        name: As the table shows it.
        environment: Whose Python runs it; see `environments.ENVIRONMENTS`.
        file: The peer's file.
        variant: What the peer is told.
        does: The kinds of work it is given, and what it calls them.
        exact: Whether its tokens must be those of the others.
        weight_bytes: Bytes of a weight, for the least time that reading them takes.
        cases: The only cases it takes part in; empty is all.
        short: Whether the short mode has it.
    """

    name: str
    environment: str
    file: str
    variant: str
    does: tuple[tuple[str, str], ...]
    exact: bool = True
    weight_bytes: float = 4.0
    cases: tuple[str, ...] = ()
    short: bool = True

    @property
    def worker(self) -> tuple[str, str, str]:
        """Rows that share a process have the same."""
        return (self.environment, self.file, self.variant)


@dataclasses.dataclass(frozen=True)
class Case:
    """One piece of work.

    Attributes:
        name: For `--only` and the files.
        title: For the table.
        do: The kind of work.
        request: What else the peer is told, `new` included.
        base: How many new tokens the run has that is subtracted; None measures the whole call.
        unit: `"ms/step"` or `"ms"`.
        short: Whether the short mode has it.
        base_is: What the run that is subtracted measures by itself.
    """

    name: str
    title: str
    do: str
    request: tuple[tuple[str, Any], ...]
    base: int | None = None
    unit: str = "ms"
    short: bool = False
    base_is: Case | None = None

    def asked(self, row: Row, *, base: bool = False) -> dict[str, Any]:
        """The request for a row, of the run that is measured or of the one subtracted."""
        request = {"do": dict(row.does)[self.do], **dict(self.request)}
        if request["do"] == "core":
            request.setdefault("prompt", 32)  # what the text of `exported.py` is padded to
        return request | ({"new": self.base} if base else {})

    def takes(self, row: Row) -> bool:
        """Whether a row takes part."""
        return self.do in dict(row.does) and (not row.cases or self.name in row.cases)

    def value(self, seconds: float, base_seconds: float | None) -> float:
        """The figure of one round, in `unit`."""
        if base_seconds is None:
            return seconds * 1e3
        return (seconds - base_seconds) / (dict(self.request)["new"] - self.base) * 1e3


_SEARCH = (("decode", "decode"), ("sample", "sample"), ("beam", "beam"))
_GREEDY = (("decode", "decode"), ("sample", "sample"))
_MAIN = ("decode-1", "decode-8", "prefill-512")

ROWS = (
    Row(BASELINE, OWN, "ours.py", "float32", (*_SEARCH, ("buffer", "buffer"))),
    Row("tfgpt2 bare loop", OWN, "ours.py", "float32", (("decode", "core"), ("texts", "core")),
        cases=("decode-1", "decode-8", "text-1", "text-8"), short=False),
    Row("tfgpt2 int8", OWN, "ours.py", "int8", _SEARCH, exact=False, weight_bytes=1),
    Row("tfgpt2 bfloat16", OWN, "ours.py", "bfloat16", _GREEDY, exact=False, weight_bytes=2,
        cases=_MAIN, short=False),
    Row("tfgpt2 float16", OWN, "ours.py", "float16", _GREEDY, exact=False, weight_bytes=2,
        cases=_MAIN, short=False),
    Row("tfgpt2 SavedModel float32", OWN, "exported.py", "float32", (("texts", "texts"),)),
    Row("tfgpt2 SavedModel int8", OWN, "exported.py", "int8", (("texts", "texts"),),
        weight_bytes=1, short=False),
    Row("transformers 4 TF, XLA", "transformers4", "transformers4_tf.py", "float32", _SEARCH),
    Row("KerasHub TF, XLA", OWN, "kerashub_tf.py", "float32", _SEARCH),
    Row("PyTorch eager", "torch", "pytorch.py", "eager", _SEARCH),
    Row("PyTorch compile", "torch", "pytorch.py", "compile", _GREEDY,
        cases=_MAIN, short=False),
    Row("CTranslate2 float32", "ctranslate2", "ct2.py", "float32", _SEARCH),
    Row("CTranslate2 int8", "ctranslate2", "ct2.py", "int8", _SEARCH, exact=False, weight_bytes=1),
    Row("ONNX Runtime float32", "onnxruntime", "onnx_runtime.py", "float32",
        (("decode", "decode"),), cases=_MAIN, short=False),
    Row("ONNX Runtime int8", "onnxruntime", "onnx_runtime.py", "int8", (("decode", "decode"),),
        exact=False, weight_bytes=1, cases=_MAIN, short=False),
    Row("llama.cpp float32", "llama", "llamacpp.py", "float32", _GREEDY),
    Row("llama.cpp Q8_0", "llama", "llamacpp.py", "Q8_0", _GREEDY, exact=False,
        weight_bytes=34 / 32),
)  # fmt: skip


def _decode(batch: int, prompt: int = 32, **more: Any) -> tuple[tuple[str, Any], ...]:
    return tuple({"batch": batch, "prompt": prompt, "new": 64, **more}.items())


PREFILL_32 = Case("prefill-32", "prefill of 32 tokens, 2 more", "decode", _decode(1, 32, new=2))

# In the order of their weight: when time runs out, the last ones are left out. Programs that no
# later case needs are ended, so the cases of the SavedModels stand together.
CASES = (
    Case("decode-1", "decode, batch 1", "decode", _decode(1), 2, "ms/step", short=True,
         base_is=PREFILL_32),
    Case("decode-8", "decode, batch 8", "decode", _decode(8), 2, "ms/step", short=True),
    Case("prefill-512", "prefill of 512 tokens, 2 more", "decode", _decode(1, 512, new=2),
         short=True),
    Case("text-1", "string to string, batch 1, 64 new tokens", "texts",
         (("batch", 1), ("new", 64))),
    Case("text-8", "string to string, batch 8, 64 new tokens", "texts",
         (("batch", 8), ("new", 64))),
    Case("sample-8", "top-p 0.9, batch 8", "sample", _decode(8, top_p=0.9), 2, "ms/step"),
    Case("buffer-128", "decode, buffer of 128 tokens", "buffer", (("room", 96), ("new", 64)), 16,
         "ms/step"),
    Case("buffer-1024", "decode, buffer of 1024 tokens", "buffer", (("room", 992), ("new", 64)),
         16, "ms/step"),
    Case("decode-32", "decode, batch 32", "decode", _decode(32, new=32), 2,
         "ms/step"),
    Case("beam-1", "beam search, 4 beams, batch 1", "beam", _decode(1, beams=4), 2, "ms/step"),
    Case("long-1", "decode after 800 tokens, batch 1", "decode", _decode(1, 800), 2, "ms/step"),
    Case("prefill-1000", "prefill of 1000 tokens, 2 more", "decode", _decode(1, 1000, new=2)),
)  # fmt: skip

# What the imports are: a name, the environment and the program that is timed in a new process.
IMPORTS = (
    ("tensorflow", OWN, "import tensorflow"),
    ("tfgpt2", OWN, "import tfgpt2; tfgpt2.TFGPT2LMHeadModel"),
    ("KerasHub", OWN, "import keras_hub"),
    ("transformers 4 TF", "transformers4", "from transformers import TFGPT2LMHeadModel"),
    ("transformers 5 PyTorch", "torch", "from transformers import GPT2LMHeadModel"),
    ("CTranslate2", "ctranslate2", "import ctranslate2"),
    ("llama.cpp", "llama", "import llama_cpp"),
    ("ONNX Runtime", "onnxruntime", "import onnxruntime"),
)

# The published shapes for `--sizes`: layers and width.
SIZES = {
    "gpt2": (12, 768),
    "gpt2-medium": (24, 1024),
    "gpt2-large": (36, 1280),
    "gpt2-xl": (48, 1600),
}
SIZES_CASE = Case("sizes", "decode, batch 1, random weights of the published shapes", "decode",
                  (("batch", 1), ("prompt", 32), ("new", 16)), 2, "ms/step")  # fmt: skip


def chosen(wanted: list[str], *, short: bool) -> tuple[list[Row], list[Case]]:
    """The rows and cases of a run.

    Args:
        wanted: Parts of rows' names or names of cases; kinds that are not named are whole.
        short: Whether it is the short mode.

    Raises:
        ValueError: A word fits nothing.
    """
    words = [word.lower() for word in wanted]
    cases = [case for case in CASES if case.name in words]
    rest = [word for word in words if word not in {case.name for case in CASES}]
    rows = [row for row in ROWS if any(word in row.name.lower() for word in rest)]
    for word in rest:
        if not any(word in row.name.lower() for row in ROWS):
            known = ", ".join([*(row.name for row in ROWS), *(case.name for case in CASES)])
            raise ValueError(f"--only {word}: there is no such program or case. Known: {known}")
    return (
        rows or [row for row in ROWS if row.short or not short],
        cases or [case for case in CASES if case.short or not short],
    )
