"""The rows (a backend in one variant) and the cases (workloads) of the comparison."""

from __future__ import annotations

import dataclasses
from typing import Any

from environments import OWN

BASELINE = "tfgpt2 float32"


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of the table: a backend in one variant.

    Attributes:
        name: Name in the table.
        environment: Virtual environment it runs in; see `environments.ENVIRONMENTS`.
        file: File of the backend.
        variant: Variant passed to the backend.
        does: Supported kinds of work, each with the name of the backend's method.
        exact: Whether its tokens must equal those of the baseline.
        weight_bytes: Bytes per weight, for the roofline bound.
        cases: Cases it takes part in; empty means all.
        short: Whether it is part of the short mode.
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
        """Key of the worker process; rows with equal keys share one."""
        return (self.environment, self.file, self.variant)


@dataclasses.dataclass(frozen=True)
class Case:
    """A workload.

    Attributes:
        name: Name in `--only` and in the result files.
        title: Title of the table.
        do: Kind of work.
        request: Further fields of the request, `new` (new tokens) included.
        base: New tokens of the run that is subtracted; None measures the whole call.
        unit: `"ms/step"` or `"ms"`.
        short: Whether it is part of the short mode.
        base_is: Case that the subtracted run measures on its own.
    """

    name: str
    title: str
    do: str
    request: tuple[tuple[str, Any], ...]
    base: int | None = None
    unit: str = "ms"
    short: bool = False
    base_is: Case | None = None

    def request_for(self, row: Row, *, base: bool = False) -> dict[str, Any]:
        """The request for a row: the measured run or the subtracted one."""
        request = {"do": dict(row.does)[self.do], **dict(self.request)}
        if request["do"] == "bare_loop":
            request.setdefault("prompt", 32)  # the prompt bucket of `tfgpt2_saved_model.py`
        return request | ({"new": self.base} if base else {})

    def takes(self, row: Row) -> bool:
        """Whether a row takes part in this case."""
        return self.do in dict(row.does) and (not row.cases or self.name in row.cases)

    def value(self, seconds: float, base_seconds: float | None) -> float:
        """The result of one round, in `unit`."""
        if base_seconds is None:
            return seconds * 1e3
        return (seconds - base_seconds) / (dict(self.request)["new"] - self.base) * 1e3


_SEARCH = (("decode", "decode"), ("sample", "sample"), ("beam", "beam"))
_GREEDY = (("decode", "decode"), ("sample", "sample"))
_MAIN = ("decode-1", "decode-8", "prefill-512")
_LITERT = (("decode", "decode"), ("texts", "texts"))
_LITERT_CASES = (*_MAIN, "long-1", "text-1", "text-8")

ROWS = (
    Row(BASELINE, OWN, "tfgpt2_model.py", "float32", (*_SEARCH, ("buffer", "buffer"))),
    Row("tfgpt2 bare loop", OWN, "tfgpt2_model.py", "float32",
        (("decode", "bare_loop"), ("texts", "bare_loop")),
        cases=("decode-1", "decode-8", "text-1", "text-8"), short=False),
    Row("tfgpt2 int8", OWN, "tfgpt2_model.py", "int8", _SEARCH, exact=False, weight_bytes=1),
    Row("tfgpt2 bfloat16", OWN, "tfgpt2_model.py", "bfloat16", _GREEDY, exact=False, weight_bytes=2,
        cases=_MAIN, short=False),
    Row("tfgpt2 float16", OWN, "tfgpt2_model.py", "float16", _GREEDY, exact=False, weight_bytes=2,
        cases=_MAIN, short=False),
    Row("tfgpt2 SavedModel float32", OWN, "tfgpt2_saved_model.py", "float32",
        (("texts", "texts"),)),
    Row("tfgpt2 SavedModel bfloat16", OWN, "tfgpt2_saved_model.py", "bfloat16",
        (("texts", "texts"),), exact=False, weight_bytes=2, cases=("text-1",), short=False),
    Row("tfgpt2 SavedModel int8", OWN, "tfgpt2_saved_model.py", "int8", (("texts", "texts"),),
        weight_bytes=1, short=False),
    Row("tfgpt2 LiteRT float32", OWN, "litert.py", "float32", _LITERT, cases=_LITERT_CASES,
        short=False),
    Row("tfgpt2 LiteRT int8", OWN, "litert.py", "int8", _LITERT, exact=False, weight_bytes=1,
        cases=_LITERT_CASES),
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

# In order of importance: when time runs out, the last ones are skipped. Workers that no later case
# needs are stopped, so the SavedModel cases are adjacent.
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
    Case("buffer-128", "decode, buffer of 128 tokens", "buffer", (("size", 96), ("new", 64)), 16,
         "ms/step"),
    Case("buffer-1024", "decode, buffer of 1024 tokens", "buffer", (("size", 992), ("new", 64)),
         16, "ms/step"),
    Case("decode-32", "decode, batch 32", "decode", _decode(32, new=32), 2,
         "ms/step"),
    Case("beam-1", "beam search, 4 beams, batch 1", "beam", _decode(1, beams=4), 2, "ms/step"),
    Case("long-1", "decode after 800 tokens, batch 1", "decode", _decode(1, 800), 2, "ms/step"),
    Case("prefill-1000", "prefill of 1000 tokens, 2 more", "decode", _decode(1, 1000, new=2)),
)  # fmt: skip

# Timed imports: name, environment, and the statement that runs in a new process.
IMPORTS = (
    ("tensorflow", OWN, "import tensorflow"),
    ("tfgpt2", OWN, "import tfgpt2; tfgpt2.TFGPT2LMHeadModel"),
    ("tfgpt2.litert", OWN, "import tfgpt2.litert, ai_edge_litert.compiled_model"),
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
    """Select the rows and cases of a run.

    Args:
        wanted: Substrings of row names, or case names. Without a row name all rows are
            selected, without a case name all cases.
        short: Whether to select the short mode only.

    Raises:
        ValueError: A word matches neither a row nor a case.
    """
    words = [word.lower() for word in wanted]
    cases = [case for case in CASES if case.name in words]
    rest = [word for word in words if word not in {case.name for case in CASES}]
    rows = [row for row in ROWS if any(word in row.name.lower() for word in rest)]
    for word in rest:
        if not any(word in row.name.lower() for row in ROWS):
            known = ", ".join([*(row.name for row in ROWS), *(case.name for case in CASES)])
            raise ValueError(f"--only {word}: no such row or case. Known: {known}")
    return (
        rows or [row for row in ROWS if row.short or not short],
        cases or [case for case in CASES if case.short or not short],
    )
