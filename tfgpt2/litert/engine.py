"""The LiteRT runtime: `model.tflite` loaded, its cache kept inside the runtime, prompts and steps.

A cache tensor is input and output of every call, and both are the same buffer, so the runtime
writes the new columns in place and nothing is copied. Texts share the columns as in
`tfgpt2.nn.kv_cache`, prompts right-aligned to the longest one:

    row 0   .  .  a  b  c | d  e        "." is masked
    row 1   w  x  y  z  a | b  c        columns 0-4 prompt, 5-6 generated

Signatures exist for several sizes of the cache, since a step reads all of its columns; a text that
outgrows one moves to the next.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import os
import tempfile
import threading
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tfgpt2.errors import explain, value_error
from tfgpt2.litert.contract import MASKED, MODEL, Contract
from tfgpt2.quiet import quiet

Buffers = dict[str, Any]
_MOST_IDLE = 4  # caches of a size that are kept for later texts


class Engine:
    """A loaded `model.tflite`.

    Args:
        folder: The export.
        contract: Its contract.
        threads: Threads of a step; None is one per core.
        cache_dir: Folder for the runtime's own form of the weights, which all signatures and later
            processes share; None is `tfgpt2/litert` in the user's cache folder.

    Raises:
        ImportError: `ai-edge-litert` is not installed.
        ValueError: The runtime cannot run the file, or the file is not what the contract says.
    """

    def __init__(
        self,
        folder: Path,
        contract: Contract,
        *,
        threads: int | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        self.contract = contract
        path = folder / MODEL
        with quiet():
            with _weight_cache(path, cache_dir) as weight_cache:
                model = _load(path, threads or os.cpu_count() or 1, str(weight_cache or ""))
            self._loaded, self._lock = _Loaded(model), threading.Lock()
            weakref.finalize(self, self._loaded.discard)
            self._check_signatures()
            # The first write into a buffer makes the runtime look for accelerators once more.
            smallest = contract.cache_sizes[0]
            self.release(smallest, self.acquire(smallest))

    def _check_signatures(self) -> None:
        """Compares the names and the shapes of the file with the contract."""
        contract, found = self.contract, self._loaded.model.get_signature_list()
        for size in contract.cache_sizes:
            expected = {contract.signature("decode", size): 1}
            for length in contract.prefill_sizes(size):
                expected[contract.signature(f"prefill_{length}", size)] = length
            if size == contract.context:
                expected[f"score_{contract.score}"] = contract.score
            for name, length in expected.items():
                model = self._loaded.model
                details = model.get_input_tensor_details(name) if name in found else {}
                shapes = {key: tuple(value["shape"]) for key, value in details.items()}
                wanted = contract.cache_shapes(size) | {
                    "tokens": (contract.batch_size, length),
                    "input_pos": (length,),
                    "mask": (contract.batch_size, 1, length, size),
                }
                if any(shapes.get(key) != shape for key, shape in wanted.items()):
                    raise value_error(
                        f"{MODEL} is not the file that litert.json describes.",
                        fix="Export again; the files of two exports cannot be mixed.",
                        signature=name,
                        signatures=sorted(found),
                    )

    def call(self, name: str, cache: Buffers, **inputs: np.ndarray) -> dict[str, np.ndarray]:
        """Runs a signature with its cache in place, and returns its other outputs."""
        with self._lock:  # all calls of a signature share their inputs and outputs
            own, outputs, shapes = self._buffers(name, [*inputs])
            for key, value in inputs.items():
                own[key].write(value)
            self._loaded.model.run_by_name(name, own | cache, outputs | cache)
            return {
                key: outputs[key].read(int(np.prod(shape)), np.float32).reshape(shape)
                for key, shape in shapes.items()
            }

    def _buffers(
        self, name: str, inputs: Sequence[str]
    ) -> tuple[Buffers, Buffers, dict[str, tuple[int, ...]]]:
        """The buffers of a signature but for its cache: inputs, outputs, and shapes of those."""
        model, calls = self._loaded.model, self._loaded.calls
        if name not in calls:
            shapes = {
                key: tuple(detail["shape"])
                for key, detail in model.get_output_tensor_details(name).items()
                if not key.startswith("kv_cache")
            }
            calls[name] = (
                {key: model.create_input_buffer_by_name(name, key) for key in inputs},
                {key: model.create_output_buffer_by_name(name, key) for key in shapes},
                shapes,
            )
        return calls[name]

    @contextlib.contextmanager
    def texts(self, prompts: Sequence[Sequence[int]], size: int | None = None) -> Iterator[Texts]:
        """Texts to read and continue, at most `batch_size`; their cache is used again afterwards.

        Args:
            prompts: The ids of each, one or more, at most `context`.
            size: Columns of the cache; None is as few as hold the prompts.
        """
        texts = Texts(self, prompts, size)
        try:
            yield texts
        finally:
            self.release(texts.size, texts.cache)

    def acquire(self, size: int) -> Buffers:
        """A cache with `size` columns, which hold finite numbers."""
        with contextlib.suppress(KeyError, IndexError):  # another thread may take the last one
            return self._loaded.idle[size].pop()
        name = self.contract.signature("decode", size)
        cache = {}
        with self._lock:
            for key, shape in self.contract.cache_shapes(size).items():
                cache[key] = self._loaded.model.create_input_buffer_by_name(name, key)
                # A masked column counts 0 times what it holds, which must not be NaN.
                cache[key].write(np.zeros(shape, np.float32))
        return cache

    def release(self, size: int, cache: Buffers) -> None:
        """Keeps a cache for later texts, unless there are enough."""
        idle = self._loaded.idle.setdefault(size, [])
        if len(idle) < _MOST_IDLE:
            idle.append(cache)

    def grow(self, size: int, cache: Buffers, larger: int) -> Buffers:
        """Moves texts to a larger cache; the smaller one is free then."""
        shapes, result = self.contract.cache_shapes(size), self.acquire(larger)
        for name, shape in self.contract.cache_shapes(larger).items():
            columns = np.zeros(shape, np.float32)
            old = cache[name].read(int(np.prod(shapes[name])), np.float32)
            columns[:, :, :size] = old.reshape(shapes[name])
            result[name].write(columns)
        self.release(size, cache)
        return result


@dataclasses.dataclass
class _Loaded:
    """What belongs to the runtime.

    Attributes:
        model: The loaded file.
        idle: Caches that no texts use, by size.
        calls: Other inputs and outputs of each signature, and shapes of the outputs.
    """

    model: Any
    idle: dict[int, list[Buffers]] = dataclasses.field(default_factory=dict)
    calls: dict[str, tuple[Buffers, Buffers, dict[str, tuple[int, ...]]]] = dataclasses.field(
        default_factory=dict
    )

    def discard(self) -> None:
        """Gives everything back; the runtime would report that on standard error."""
        with quiet():
            self.idle.clear()
            self.calls.clear()
            self.model = None


class Texts:
    """Texts that the model reads and continues together.

    Args:
        engine: The loaded model.
        prompts: See `Engine.texts`, as for the next.
        size: See there.

    Attributes:
        size: Columns of the cache.
        cache: Its buffers.
        column: The column that is written next.
    """

    def __init__(
        self, engine: Engine, prompts: Sequence[Sequence[int]], size: int | None = None
    ) -> None:
        self._engine, self._contract = engine, engine.contract
        rows = self._contract.batch_size
        prompts = [*prompts, *[[0]] * (rows - len(prompts))]  # rows that nobody asked for
        longest = max(map(len, prompts))
        self._tokens = np.zeros([rows, longest], np.int32)  # [B, M]
        self._first = np.array([longest - len(prompt) for prompt in prompts])  # [B]
        for row, prompt in enumerate(prompts):
            self._tokens[row, longest - len(prompt) :] = prompt
        self.column, self.size = 0, size or self._contract.cache_size(longest)
        self.cache = engine.acquire(self.size)

    def read(self) -> np.ndarray:
        """Reads the prompts: logits float32 `[B, V]` of the token after each."""
        last = self._tokens.shape[1] - 1
        lengths = self._contract.prefill_sizes(self.size)
        for length, used in chunks(last, self.size, lengths):
            if length == 1:
                self.step(self._tokens[:, self.column])
                continue
            name = self._contract.signature(f"prefill_{length}", self.size)
            self._engine.call(name, self.cache, **self._inputs(self._tokens, length, used))
            self.column += used
        return self.step(self._tokens[:, last])

    def step(self, tokens: np.ndarray) -> np.ndarray:
        """Reads one token per row, int `[B]`: logits float32 `[B, V]` of the next."""
        if self.column == self.size:
            larger = self._contract.cache_size(self.column + 1)
            self.cache = self._engine.grow(self.size, self.cache, larger)
            self.size = larger
        name = self._contract.signature("decode", self.size)
        tokens = np.asarray(tokens, np.int32)[:, None]  # [B, 1]
        outputs = self._engine.call(name, self.cache, **self._inputs(tokens, 1, 1, first=0))
        self.column += 1
        return outputs["logits"][:, 0]

    def score(self) -> np.ndarray:
        """Log-probability of each token given those before it, in nats.

        Returns:
            float32 `[B, M]`, right-aligned; 0 for the first token of a row and in the padding.
        """
        rows, total = self._tokens.shape
        length = self._contract.score
        found = np.zeros([rows, total], np.float32)
        while self.column < total - 1:
            # The last chunk begins earlier where it would not fit, and reads some tokens again.
            self.column = min(self.column, self.size - length)
            used = min(length, total - 1 - self.column)
            targets = np.zeros([rows, length], np.int32)
            targets[:, :used] = self._tokens[:, self.column + 1 : self.column + 1 + used]
            inputs = self._inputs(self._tokens, length, used)
            outputs = self._engine.call(f"score_{length}", self.cache, targets=targets, **inputs)
            found[:, self.column + 1 : self.column + 1 + used] = outputs["logprobs"][:, :used]
            self.column += used
        return np.where(np.arange(total) > self._first[:, None], found, np.float32(0))

    def _inputs(
        self, tokens: np.ndarray, length: int, used: int, first: int | None = None
    ) -> dict[str, np.ndarray]:
        """Inputs of a call that writes `length` columns, of which `used` count.

        Args:
            tokens: int32 `[B, ...]`.
            length: `T`.
            used: At most `T`.
            first: Where the tokens begin; None is the column that is written next.
        """
        begin = self.column if first is None else first
        chunk = np.zeros([len(tokens), length], np.int32)
        chunk[:, :used] = tokens[:, begin : begin + used]
        queries = self.column + np.arange(length)  # [T]
        columns = np.arange(self.size)  # [S]
        seen = (columns <= queries[:, None]) & (columns >= self._first[:, None, None])  # [B, T, S]
        mask = np.where(seen, np.float32(0), np.float32(MASKED))[:, None]  # [B, 1, T, S]
        return {"tokens": chunk, "input_pos": queries.astype(np.int32), "mask": mask}


def chunks(count: int, size: int, lengths: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Divides columns among signatures that each write a fixed number of columns.

    Args:
        count: Columns to write, from 0 on.
        size: Columns there are; no call may write beyond them.
        lengths: What the signatures write, in ascending order; one column is always possible.

    Yields:
        What a call writes, and how many of its columns count.

    Example:
        >>> list(chunks(20, 32, [16])), list(chunks(40, 64, [16, 64]))
        ([(16, 16), (16, 4)], [(64, 40)])
    """
    column = 0
    while column < count:
        left = count - column
        fits = [one for one in lengths if column + one <= size] or [1]
        # What reads all that is left, unless most of it would be padding; else the largest below.
        length = next((one for one in fits if left <= one < 2 * left), 0)
        length = length or max((one for one in fits if one <= left), default=fits[0])
        used = min(length, left)
        yield length, used
        column += used


def _load(path: Path, threads: int, weight_cache: str) -> Any:
    """Loads a file into the runtime."""
    try:
        from ai_edge_litert.compiled_model import CompiledModel
        from ai_edge_litert.hardware_accelerator import HardwareAccelerator
        from ai_edge_litert.options import CpuOptions, Options
    except ImportError as error:
        raise ImportError(
            explain(
                "LiteRT is not installed, or is older than 2.3.",
                fix="Run: pip install 'tfgpt2[litert]'",
                error=str(error),
            )
        ) from error
    cpu = CpuOptions(num_threads=threads, xnnpack_weight_cache_path=weight_cache)
    options = Options(hardware_accelerators=HardwareAccelerator.CPU, cpu_options=cpu)
    try:
        return CompiledModel.from_file(str(path), options=options)
    except RuntimeError as error:
        raise value_error(
            f"The runtime cannot run {path.name}: the file is damaged, or needs an operation that"
            " this version of ai-edge-litert lacks.",
            fix="Update ai-edge-litert, or export again.",
            error=str(error),
            path=str(path),
        ) from error


@contextlib.contextmanager
def _weight_cache(path: Path, cache_dir: str | os.PathLike[str] | None) -> Iterator[Path | None]:
    """A file for the runtime's form of the weights; None where no such file can be written.

    It is written under a name of its own and renamed when it is complete.
    """
    base = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    folder = Path(base, "tfgpt2", "litert") if cache_dir is None else Path(cache_dir)
    state = path.stat()
    key = f"{path.resolve()} {state.st_size} {state.st_mtime_ns} {_runtime_version()}"
    target = folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.xnnpack"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if target.is_file():
            yield target
            return
        handle, name = tempfile.mkstemp(prefix=f".{target.stem}.", dir=folder)
    except OSError:
        yield None
        return
    os.close(handle)
    os.unlink(name)  # the runtime makes the file; one that exists is read
    temporary = Path(name)
    try:
        yield temporary
        with contextlib.suppress(OSError):  # where the runtime made none, or still holds it
            temporary.replace(target)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _runtime_version() -> str:
    """The version of the runtime, or an empty text."""
    try:
        return importlib.metadata.version("ai-edge-litert")
    except importlib.metadata.PackageNotFoundError:
        return ""
