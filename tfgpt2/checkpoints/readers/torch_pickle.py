"""The pickles that `torch.save` writes for a state dict, read without executing anything in them.

A pickle is a program. Python's `pickle` executes it with any function that it names. The small
stack machine here knows only the opcodes of a dict of tensors, and builds plain dicts, lists,
tuples, strings and numbers, and a description of each tensor. Everything else is refused by name.
No object of the file's choice is ever created, looked up or called.

Source: Python's `pickletools` for the opcodes; PyTorch 2.13, `torch/serialization.py::_save,
_legacy_save` and `torch/_utils.py::_rebuild_tensor_v2` for their use in a state dict.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from typing import BinaryIO, NamedTuple

import numpy as np

from tfgpt2.checkpoints.readers import safetensors

DTYPES = {np.dtype(kind).name: np.dtype(kind) for kind in safetensors.DTYPES.values()}
_STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "UntypedStorage": "uint8",  # bytes; the tensor then has its own type
}
_MAX_OPCODES = 5_000_000  # GPT-2 XL takes about 30 thousand
_MAX_BYTES = 100_000_000  # of one pickle; that of GPT-2 XL has 60 thousand


class Storage(NamedTuple):
    """An array of numbers that tensors are views of: its name, type, and number of elements."""

    key: str
    dtype: np.dtype
    length: int


class Tensor(NamedTuple):
    """A view of a storage: offset, shape and strides counted in elements, and type."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: np.dtype


class RefusedError(ValueError):
    """The file is damaged, or asks for something that a state dict does not need."""


class _Name(NamedTuple):
    """A global that the pickle refers to; it is never looked up."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


class _Mark:
    """Start of a group of values on the stack."""


_MARK = _Mark()


def load(stream: BinaryIO) -> object:
    """Reads one pickle from a stream, which is then positioned after it.

    Args:
        stream: A seekable binary stream.

    Returns:
        The value, made of dicts, lists, tuples, plain values and `Tensor`s.

    Raises:
        RefusedError: It is damaged, too large, or asks for what a state dict does not need.
    """
    machine = _StackMachine()
    try:
        opcodes = pickletools.genops(_Bounded(stream))
        for count, (opcode, argument, _) in enumerate(opcodes):
            if count > _MAX_OPCODES:
                raise RefusedError(f"it has more than {_MAX_OPCODES} opcodes")
            machine.execute(opcode.name, argument)
        return machine.result()
    except RefusedError as error:
        if machine.last_key is None:
            raise
        raise RefusedError(f"{error} (near the key {machine.last_key!r})") from None
    except (ValueError, TypeError, LookupError, OverflowError, MemoryError) as error:
        raise RefusedError(f"its pickle is damaged ({error!r})") from error


class _Bounded:
    """A stream that ends with an error after the largest size of a state dict's pickle."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._left = stream, _MAX_BYTES

    def read(self, size: int) -> bytes:
        """Reads bytes."""
        return self._counted(self._stream.read(min(size, self._left + 1)))

    def readline(self) -> bytes:
        """Reads up to the end of a line."""
        return self._counted(self._stream.readline(self._left + 1))

    def tell(self) -> int:
        """Returns the position in the stream."""
        return self._stream.tell()

    def _counted(self, data: bytes) -> bytes:
        self._left -= len(data)
        if self._left < 0:
            raise RefusedError(f"its pickle is longer than {_MAX_BYTES} bytes")
        return data


class _StackMachine:
    """The stack machine, with one method for each kind of opcode."""

    def __init__(self) -> None:
        self._stack: list[object] = []
        self._memo: dict[int, object] = {}
        self._storages: dict[str, Storage] = {}
        self.last_key: str | None = None

    def execute(self, opcode: str, argument: object) -> None:
        """Executes one opcode."""
        if opcode in _CONSTANTS:
            self._stack.append(_CONSTANTS[opcode])
        elif opcode in _LITERALS:
            self._push_literal(argument)
        elif opcode in _FRESH:
            self._stack.append(_FRESH[opcode]())
        elif opcode in _OPERATIONS:
            _OPERATIONS[opcode](self, argument)
        elif opcode not in _IGNORED:
            raise RefusedError(
                f"its pickle uses the opcode {opcode}, which a state dict does not need"
            )

    def result(self) -> object:
        """Returns the value that is left at the end of the pickle."""
        if len(self._stack) != 1:
            raise RefusedError("its pickle is damaged: it does not leave a single value")
        return self._pop()

    def _pop(self) -> object:
        return self._stack.pop()

    def _since_mark(self) -> list[object]:
        for start in range(len(self._stack) - 1, -1, -1):
            if self._stack[start] is _MARK:
                values = self._stack[start + 1 :]
                del self._stack[start:]
                return values
        raise RefusedError("its pickle is damaged: a group of values has no start")

    def _push_literal(self, argument: object) -> None:
        self._stack.append(argument)
        if isinstance(argument, str) and "." in argument:
            self.last_key = argument

    def _put(self, argument: object) -> None:
        self._memo[argument] = self._stack[-1]

    def _memoize(self, argument: object) -> None:
        self._memo[len(self._memo)] = self._stack[-1]

    def _get(self, argument: object) -> None:
        self._stack.append(self._memo[argument])

    def _tuple(self, argument: object) -> None:
        self._stack.append(tuple(self._since_mark()))

    def _short_tuple(self, size: int) -> None:
        values = tuple(self._stack[-size:])
        if len(values) != size or _MARK in values:
            raise RefusedError("its pickle is damaged: a tuple lacks values")
        del self._stack[-size:]
        self._stack.append(values)

    def _append(self, argument: object) -> None:
        self._extend([self._pop()])

    def _appends(self, argument: object) -> None:
        self._extend(self._since_mark())

    def _extend(self, values: list[object]) -> None:
        if type(self._stack[-1]) is not list:
            raise RefusedError("its pickle appends to something that is not a list")
        self._stack[-1].extend(values)

    def _set_item(self, argument: object) -> None:
        value, key = self._pop(), self._pop()
        self._update([key, value])

    def _set_items(self, argument: object) -> None:
        self._update(self._since_mark())

    def _update(self, values: list[object]) -> None:
        target = self._stack[-1]
        if type(target) is not dict or len(values) % 2:
            raise RefusedError("its pickle sets items of something that is not a dict")
        for key, value in zip(values[::2], values[1::2], strict=True):
            # Other keys could be nested so deeply that hashing them overflows the stack.
            if type(key) not in (str, int):
                raise RefusedError(f"a dict in it has a key that is a {type(key).__name__}")
            target[key] = value

    def _global(self, argument: object) -> None:
        self._name(*str(argument).split(" ", 1))

    def _stack_global(self, argument: object) -> None:
        name, module = self._pop(), self._pop()
        if type(name) is not str or type(module) is not str:
            raise RefusedError("its pickle is damaged: a global has no name")
        self._name(module, name)

    def _name(self, module: str, name: str) -> None:
        known = _Name(module, name)
        if known not in _BUILDERS and _dtype_of(known) is None and _storage_of(known) is None:
            raise RefusedError(
                f"it asks for `{known}`, which a state dict does not need and which might execute"
                " code; nothing was executed"
            )
        self._stack.append(known)

    def _reduce(self, argument: object) -> None:
        arguments, function = self._pop(), self._pop()
        if type(function) is not _Name or function not in _BUILDERS or type(arguments) is not tuple:
            raise RefusedError("its pickle calls something that does not build tensors")
        self._stack.append(_BUILDERS[function](*arguments))

    def _build(self, argument: object) -> None:
        self._pop()  # the state of an OrderedDict: PyTorch's `_metadata` with versions
        if type(self._stack[-1]) is not dict:
            raise RefusedError("its pickle sets the state of something that is not a dict")

    def _persistent_id(self, argument: object) -> None:
        self._stack.append(_storage(self._pop(), self._storages))


def _storage_of(name: object) -> str | None:
    """Name of the type of a storage class, or None for another global."""
    if type(name) is _Name and name.module in ("torch", "torch.storage", "torch.cuda"):
        return _STORAGES.get(name.name)
    return None


def _dtype_of(name: object) -> str | None:
    """Name of one of torch's types, or None for another global."""
    return name.name if type(name) is _Name and name in _DTYPE_NAMES else None


def _storage(value: object, known: dict[str, Storage]) -> Storage:
    """Reads a storage's description: ("storage", class, key, device, length[, view])."""
    if type(value) is not tuple or len(value) not in (5, 6) or value[0] != "storage":
        raise RefusedError("its pickle refers to something external that is not a storage")
    _, kind, key, _, length, *view = value
    dtype = _storage_of(kind)
    if dtype is None or type(key) is not str or type(length) is not int or length < 0:
        raise RefusedError("the description of a storage in it is damaged")
    if view and view[0] is not None:
        raise RefusedError("it holds views of storages, as only PyTorch before 0.4 wrote them")
    storage = Storage(key, DTYPES[dtype], length)
    if known.setdefault(key, storage) != storage:
        raise RefusedError(f"it describes the storage {key!r} in two different ways")
    return storage


def _mapping(pairs: object = ()) -> dict[object, object]:
    """Replaces `collections.OrderedDict`."""
    built: dict[object, object] = {}
    for pair in pairs if type(pairs) in (list, tuple) else ():
        key, value = pair
        if type(key) not in (str, int):
            raise RefusedError(f"a dict in it has a key that is a {type(key).__name__}")
        built[key] = value
    return built


def _tensor(storage: object, offset: object, shape: object, strides: object, *_: object) -> Tensor:
    """Replaces `torch._utils._rebuild_tensor` and `_rebuild_tensor_v2`."""
    if type(storage) is not Storage or type(shape) is not tuple or type(strides) is not tuple:
        raise RefusedError("the description of a tensor in it is damaged")
    if not all(type(n) is int and 0 <= n < 2**62 for n in (offset, *shape, *strides)):
        raise RefusedError("a tensor in it has a negative or fractional size")
    if len(shape) != len(strides) or len(shape) > 8:
        raise RefusedError("a tensor in it has a shape that does not match its strides")
    return Tensor(storage, offset, shape, strides, storage.dtype)


def _typed_tensor(
    storage: object,
    offset: object,
    shape: object,
    strides: object,
    gradient: object,
    hooks: object,
    dtype: object,
    *_: object,
) -> Tensor:
    """Replaces `torch._utils._rebuild_tensor_v3`, a view of a storage of bytes."""
    name = _dtype_of(dtype)
    if name is None:
        raise RefusedError("a tensor in it has a type that GPT-2 does not use")
    return _tensor(storage, offset, shape, strides)._replace(dtype=DTYPES[name])


def _parameter(data: object, *_: object) -> Tensor:
    """Replaces `torch._utils._rebuild_parameter`."""
    if type(data) is not Tensor:
        raise RefusedError("a parameter in it is not a tensor")
    return data


_BUILDERS: dict[_Name, Callable[..., object]] = {
    _Name("collections", "OrderedDict"): _mapping,
    _Name("torch._utils", "_rebuild_tensor"): _tensor,
    _Name("torch._utils", "_rebuild_tensor_v2"): _tensor,
    _Name("torch._utils", "_rebuild_tensor_v3"): _typed_tensor,
    _Name("torch._utils", "_rebuild_parameter"): _parameter,
}
_DTYPE_NAMES = {_Name("torch", name) for name in DTYPES}

_IGNORED = {"PROTO", "FRAME", "STOP"}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": (), "MARK": _MARK}
_FRESH: dict[str, Callable[[], object]] = {"EMPTY_DICT": dict, "EMPTY_LIST": list}
_LITERALS = {
    *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINSTRING", "SHORT_BINSTRING"),
}
_OPERATIONS: dict[str, Callable[[_StackMachine, object], None]] = {
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), _StackMachine._put),
    "MEMOIZE": _StackMachine._memoize,
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _StackMachine._get),
    "TUPLE": _StackMachine._tuple,
    "TUPLE1": lambda machine, _: machine._short_tuple(1),
    "TUPLE2": lambda machine, _: machine._short_tuple(2),
    "TUPLE3": lambda machine, _: machine._short_tuple(3),
    "APPEND": _StackMachine._append,
    "APPENDS": _StackMachine._appends,
    "SETITEM": _StackMachine._set_item,
    "SETITEMS": _StackMachine._set_items,
    "GLOBAL": _StackMachine._global,
    "STACK_GLOBAL": _StackMachine._stack_global,
    "REDUCE": _StackMachine._reduce,
    "BUILD": _StackMachine._build,
    "BINPERSID": _StackMachine._persistent_id,
}
