"""Reads the pickles that `torch.save` makes of a state dict, without running anything in them.

A pickle is a program. Python's `pickle` runs it with any function it names; here a small machine
of our own knows only the steps that a dict of tensors takes, builds plain dicts, lists, tuples,
strings and numbers, and a description of each tensor. What a file asks for beyond that is refused
by name. No object of the file's choosing is ever made, looked up or called.

Source: Python's `pickletools` for the steps; PyTorch 2.13, `torch/serialization.py::_save,
_legacy_save` and `torch/_utils.py::_rebuild_tensor_v2` for what a state dict makes of them.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from typing import BinaryIO, NamedTuple

import ml_dtypes
import numpy as np

DTYPES = {
    "float64": np.float64,
    "float32": np.float32,
    "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16,
    "int64": np.int64,
    "int32": np.int32,
    "int16": np.int16,
    "int8": np.int8,
    "uint8": np.uint8,
    "bool": np.bool_,
}
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
    "UntypedStorage": "uint8",  # bytes; the tensor then tells its type itself
}
_MAX_STEPS = 5_000_000  # GPT-2 XL takes about 30 thousand
_MAX_BYTES = 100_000_000  # of one pickle; that of GPT-2 XL has 60 thousand


class Storage(NamedTuple):
    """A run of numbers that tensors look into: its name, type, and length in numbers."""

    key: str
    dtype: np.dtype
    length: int


class Tensor(NamedTuple):
    """A view of a storage: first number, shape and strides counted in numbers, and type."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: np.dtype


class Refused(ValueError):
    """The pickle is damaged, or asks for something that no state dict needs."""


class _Name(NamedTuple):
    """Something that the pickle refers to by name; never looked up."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


class _Mark:
    """Where on the stack a group of values begins."""


_MARK = _Mark()


def load(stream: BinaryIO) -> object:
    """Reads one pickle from a stream, which then stands right behind it.

    Args:
        stream: A seekable binary stream.

    Returns:
        The value, made of dicts, lists, tuples, plain values and `Tensor`s.

    Raises:
        Refused: It is damaged, too large, or asks for something that no state dict needs.
    """
    machine = _Machine()
    try:
        steps = pickletools.genops(_Bounded(stream))
        for count, (opcode, argument, _) in enumerate(steps):
            if count > _MAX_STEPS:
                raise Refused(f"it takes more than {_MAX_STEPS} steps")
            machine.step(opcode.name, argument)
        return machine.result()
    except Refused as error:
        if machine.last_key is None:
            raise
        raise Refused(f"{error} (near the key {machine.last_key!r})") from None
    except (ValueError, TypeError, LookupError, OverflowError, MemoryError) as error:
        raise Refused(f"its pickle is damaged ({error!r})") from error


class _Bounded:
    """A stream that hands out no more than a pickle of a state dict can need."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._left = stream, _MAX_BYTES

    def read(self, size: int) -> bytes:
        """Reads bytes."""
        return self._counted(self._stream.read(min(size, self._left + 1)))

    def readline(self) -> bytes:
        """Reads up to the end of a line."""
        return self._counted(self._stream.readline(self._left + 1))

    def tell(self) -> int:
        """Says where the stream stands."""
        return self._stream.tell()

    def _counted(self, data: bytes) -> bytes:
        self._left -= len(data)
        if self._left < 0:
            raise Refused(f"its pickle is longer than {_MAX_BYTES} bytes")
        return data


class _Machine:
    """The stack machine: one method per kind of step."""

    def __init__(self) -> None:
        self._stack: list[object] = []
        self._memo: dict[int, object] = {}
        self._storages: dict[str, Storage] = {}
        self.last_key: str | None = None

    def step(self, opcode: str, argument: object) -> None:
        """Takes one step."""
        if opcode in _CONSTANTS:
            self._stack.append(_CONSTANTS[opcode])
        elif opcode in _LITERALS:
            self._push_literal(argument)
        elif opcode in _FRESH:
            self._stack.append(_FRESH[opcode]())
        elif opcode in _STEPS:
            _STEPS[opcode](self, argument)
        elif opcode not in _IGNORED:
            raise Refused(f"its pickle takes the step {opcode}, which no state dict needs")

    def result(self) -> object:
        """Returns what is left when the pickle has ended."""
        if len(self._stack) != 1:
            raise Refused("its pickle is damaged: it leaves no single value")
        return self._pop()

    def _pop(self) -> object:
        return self._stack.pop()

    def _since_mark(self) -> list[object]:
        for start in range(len(self._stack) - 1, -1, -1):
            if self._stack[start] is _MARK:
                values = self._stack[start + 1 :]
                del self._stack[start:]
                return values
        raise Refused("its pickle is damaged: a group of values has no beginning")

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
            raise Refused("its pickle is damaged: a tuple lacks values")
        del self._stack[-size:]
        self._stack.append(values)

    def _append(self, argument: object) -> None:
        self._extend([self._pop()])

    def _appends(self, argument: object) -> None:
        self._extend(self._since_mark())

    def _extend(self, values: list[object]) -> None:
        if type(self._stack[-1]) is not list:
            raise Refused("its pickle appends to something that is no list")
        self._stack[-1].extend(values)

    def _set_item(self, argument: object) -> None:
        value, key = self._pop(), self._pop()
        self._update([key, value])

    def _set_items(self, argument: object) -> None:
        self._update(self._since_mark())

    def _update(self, values: list[object]) -> None:
        target = self._stack[-1]
        if type(target) is not dict or len(values) % 2:
            raise Refused("its pickle sets items of something that is no dict")
        for key, value in zip(values[::2], values[1::2], strict=True):
            # Other keys could be nested so deeply that hashing them overflows the stack.
            if type(key) not in (str, int):
                raise Refused(f"a dict in it has a key that is a {type(key).__name__}")
            target[key] = value

    def _global(self, argument: object) -> None:
        self._name(*str(argument).split(" ", 1))

    def _stack_global(self, argument: object) -> None:
        name, module = self._pop(), self._pop()
        if type(name) is not str or type(module) is not str:
            raise Refused("its pickle is damaged: a global has no name")
        self._name(module, name)

    def _name(self, module: str, name: str) -> None:
        known = _Name(module, name)
        if known not in _BUILDERS and _dtype_of(known) is None and _storage_of(known) is None:
            raise Refused(
                f"it asks for `{known}`, which no state dict needs and which might run code;"
                " nothing was run"
            )
        self._stack.append(known)

    def _reduce(self, argument: object) -> None:
        arguments, function = self._pop(), self._pop()
        if type(function) is not _Name or function not in _BUILDERS or type(arguments) is not tuple:
            raise Refused("its pickle calls something that is no builder of tensors")
        self._stack.append(_BUILDERS[function](*arguments))

    def _build(self, argument: object) -> None:
        self._pop()  # the state of an OrderedDict: PyTorch's `_metadata`, which names versions
        if type(self._stack[-1]) is not dict:
            raise Refused("its pickle sets the state of something that is no dict")

    def _persistent_id(self, argument: object) -> None:
        self._stack.append(_storage(self._pop(), self._storages))


def _storage_of(name: object) -> str | None:
    """Type of the numbers in a storage class that is named, if it is one."""
    if type(name) is _Name and name.module in ("torch", "torch.storage", "torch.cuda"):
        return _STORAGES.get(name.name)
    return None


def _dtype_of(name: object) -> str | None:
    """Name of the type, if one of torch's is named."""
    return name.name if type(name) is _Name and name in _DTYPE_NAMES else None


def _storage(value: object, known: dict[str, Storage]) -> Storage:
    """Reads a storage's description: ("storage", class, key, device, length[, view])."""
    if type(value) is not tuple or len(value) not in (5, 6) or value[0] != "storage":
        raise Refused("its pickle refers to something outside that is no storage")
    _, kind, key, _, length, *view = value
    dtype = _storage_of(kind)
    if dtype is None or type(key) is not str or type(length) is not int or length < 0:
        raise Refused("the description of a storage in it is damaged")
    if view and view[0] is not None:
        raise Refused("it holds views of storages, as only PyTorch before 0.4 wrote them")
    storage = Storage(key, np.dtype(DTYPES[dtype]), length)
    if known.setdefault(key, storage) != storage:
        raise Refused(f"it describes the storage {key!r} in two ways")
    return storage


def _mapping(pairs: object = ()) -> dict[object, object]:
    """Stands for `collections.OrderedDict`."""
    built: dict[object, object] = {}
    for pair in pairs if type(pairs) in (list, tuple) else ():
        key, value = pair
        if type(key) not in (str, int):
            raise Refused(f"a dict in it has a key that is a {type(key).__name__}")
        built[key] = value
    return built


def _tensor(storage: object, offset: object, shape: object, strides: object, *_: object) -> Tensor:
    """Stands for `torch._utils._rebuild_tensor` and `_rebuild_tensor_v2`."""
    if type(storage) is not Storage or type(shape) is not tuple or type(strides) is not tuple:
        raise Refused("the description of a tensor in it is damaged")
    if not all(type(n) is int and 0 <= n < 2**62 for n in (offset, *shape, *strides)):
        raise Refused("a tensor in it has a negative or fractional size")
    if len(shape) != len(strides) or len(shape) > 8:
        raise Refused("a tensor in it has a shape that does not fit its strides")
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
    """Stands for `torch._utils._rebuild_tensor_v3`, which looks into a storage of bytes."""
    name = _dtype_of(dtype)
    if name is None:
        raise Refused("a tensor in it has a type that no state dict of GPT-2 has")
    return _tensor(storage, offset, shape, strides)._replace(dtype=np.dtype(DTYPES[name]))


def _parameter(data: object, *_: object) -> Tensor:
    """Stands for `torch._utils._rebuild_parameter`."""
    if type(data) is not Tensor:
        raise Refused("a parameter in it is no tensor")
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
_STEPS: dict[str, Callable[[_Machine, object], None]] = {
    "PUT": _Machine._put,
    "BINPUT": _Machine._put,
    "LONG_BINPUT": _Machine._put,
    "MEMOIZE": _Machine._memoize,
    "GET": _Machine._get,
    "BINGET": _Machine._get,
    "LONG_BINGET": _Machine._get,
    "TUPLE": _Machine._tuple,
    "TUPLE1": lambda machine, _: machine._short_tuple(1),
    "TUPLE2": lambda machine, _: machine._short_tuple(2),
    "TUPLE3": lambda machine, _: machine._short_tuple(3),
    "APPEND": _Machine._append,
    "APPENDS": _Machine._appends,
    "SETITEM": _Machine._set_item,
    "SETITEMS": _Machine._set_items,
    "GLOBAL": _Machine._global,
    "STACK_GLOBAL": _Machine._stack_global,
    "REDUCE": _Machine._reduce,
    "BUILD": _Machine._build,
    "BINPERSID": _Machine._persistent_id,
}
