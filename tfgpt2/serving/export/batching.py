"""Rows of a SavedModel: padded to a few batch sizes, and gathered from concurrent requests.

XLA compiles one program per shape, so the number of rows is rounded up to an allowed size before
the compiled core is called. Rows that were added ask for nothing. Requests may also be gathered
into one batch, by the graph itself (`gather`) or by the server (`server_parameters`).
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from tfgpt2.errors import explain, nearest
from tfgpt2.generation.buckets import round_up

DEFAULT_SIZES = (1, 2, 4, 8, 16, 32)
_MOST_ROWS = 1024
PARAMETERS_FILE = "batching_params.pbtxt"

Tensors = dict[str, tf.Tensor]


class Batching(NamedTuple):
    """How requests that come at the same time share a batch.

    Attributes:
        kind: `"graph"`: the SavedModel gathers them itself, on any server without a flag.
            `"server"`: TensorFlow Serving does, by a file beside the SavedModel.
        timeout_micros: Longest time that a request waits for others, in microseconds.
        threads: Batches that run at the same time.
        waiting: Batches that may wait; beyond that a request fails with `UNAVAILABLE`.
    """

    kind: str = "graph"
    timeout_micros: int = 2000
    threads: int = 1
    waiting: int = 100


class Core(NamedTuple):
    """What a signature computes, row by row.

    Attributes:
        run: From tensors by name, at least one row, to tensors by name with as many rows.
        inputs: Types and shapes of its inputs, the first axis open.
        idle: By input, the value that lets a row ask for nothing.
        wide: Outputs `[B, T, ...]`, filled up to the longest row of the batch.
        columns: From the outputs to int32 `[B]`, how many columns of those each row needs.
        most_columns: The most columns they can have.
        axis: Which axis counts the columns: 2 where each row has several texts, `[B, n, T, ...]`.
    """

    run: Callable[[Tensors], Tensors]
    inputs: tuple[tf.TensorSpec, ...]
    idle: Mapping[str, Any]
    wide: tuple[str, ...]
    columns: Callable[[Tensors], tf.Tensor]
    most_columns: int = 0
    axis: int = 1


def check_sizes(sizes: Sequence[int] | None) -> tuple[int, ...] | None:
    """Checks batch sizes a user gave and returns them in order.

    Raises:
        ValueError: They are not distinct integers in [1, 1024].
    """
    if sizes is None:
        return None
    found = tuple(sizes) if isinstance(sizes, (list, tuple)) else ()
    fits = all(type(size) is int and 1 <= size <= _MOST_ROWS for size in found)
    if not found or not fits or len(set(found)) != len(found):
        raise ValueError(
            explain(
                f"`batch_sizes` must be distinct integers in [1, {_MOST_ROWS}].",
                fix=f"For example {DEFAULT_SIZES}.",
                batch_sizes=sizes,
            )
        )
    return tuple(sorted(found))


def check_batching(batching: Batching | str | None) -> Batching | None:
    """Checks how requests are to be gathered.

    Args:
        batching: `"graph"`, `"server"`, a `Batching`, or None.

    Raises:
        ValueError: The kind is unknown, or a number is out of range.
        TypeError: It is nothing of that kind.

    Example:
        >>> check_batching("graph").threads
        1
    """
    if batching is None:
        return None
    if isinstance(batching, str):
        batching = Batching(batching)
    if not isinstance(batching, Batching):
        raise TypeError(
            explain(
                "`batching` must be 'graph', 'server', a Batching or None.",
                fix="Use Batching('graph', timeout_micros=2000) to set its numbers.",
                batching=batching,
            )
        )
    kinds = ("graph", "server")
    if batching.kind not in kinds:
        raise ValueError(
            explain(
                "`batching` must be 'graph', 'server' or None.",
                fix=nearest(str(batching.kind), kinds),
                batching=batching.kind,
            )
        )
    lowest = {"timeout_micros": 0, "threads": 1, "waiting": 1}
    for name, low in lowest.items():
        value = getattr(batching, name)
        if type(value) is not int or value < low:
            raise ValueError(
                explain(
                    f"`{name}` of batching must be an integer of {low} or more.",
                    fix=f"The usual value is {getattr(Batching(), name)}.",
                    **{name: value},
                )
            )
    return batching


def pad_rows(core: Core, sizes: Sequence[int] | None) -> Core:
    """Lets a core see only batches of certain sizes.

    A batch is padded to the next size; one beyond the largest runs in parts of that size, one
    after the other.

    Args:
        core: What to run.
        sizes: In ascending order; None takes every batch as it is, and pads an empty one to a row.
    """

    def padded(inputs: Tensors) -> Tensors:
        rows = _rows(core, inputs)
        filled = _fill(core, inputs, tf.maximum(rows, 1))
        return {name: value[:rows] for name, value in core.run(filled).items()}

    if sizes is None:
        return core._replace(run=padded)
    largest = sizes[-1]
    # A function of its own: it is called in two places and traced once.
    part = tf.function(
        lambda *inputs: core.run(_named(core, inputs)), input_signature=core.inputs, autograph=False
    ).get_concrete_function()

    def run(inputs: Tensors) -> Tensors:
        rows = _rows(core, inputs)

        def rows_from(start: tf.Tensor) -> Tensors:
            count = tf.minimum(rows - start, largest)
            taken = {name: value[start : start + count] for name, value in inputs.items()}
            filled = _fill(core, taken, round_up(count, sizes))
            outputs = part(*(filled[spec.name] for spec in core.inputs))
            return {name: value[:count] for name, value in outputs.items()}

        def more(start: tf.Tensor, done: Tensors) -> tuple[tf.Tensor, Tensors]:
            new = rows_from(start)
            return start + largest, {
                name: _stack(done[name], new[name], _axis(core, name)) for name in done
            }

        first = rows_from(tf.constant(0))
        open_shapes = {name: _open(value, _axis(core, name)) for name, value in first.items()}
        _, outputs = tf.while_loop(
            lambda start, done: start < rows,
            more,
            (tf.constant(largest), first),
            shape_invariants=(tf.TensorShape([]), open_shapes),
        )
        return outputs

    return core._replace(run=run)


def gather(core: Core, batching: Batching, sizes: Sequence[int], name: str) -> Core:
    """Lets requests that come at the same time share one call of a core.

    Args:
        core: What to run; inputs of rank 2 must have as many columns in all requests.
        batching: How long to wait, and how many batches run and wait.
        sizes: Allowed batch sizes, in ascending order. A request of more rows than the largest, up
            to 1024, is split and joined again.
        name: Name of the queues, for logs. Queues of one name are one queue that runs one function,
            so each place in a graph gets a name of its own.
    """

    def batch(*inputs: tf.Tensor) -> Tensors:
        # As wide as can be: the rows of one request may fall into two batches, whose results the
        # operation joins.
        outputs = core.run(_named(core, inputs))
        most = tf.constant(core.most_columns)
        return outputs | {name: _widen(outputs[name], most, core.axis) for name in core.wide}

    function = tf.function(
        batch, input_signature=core.inputs, autograph=False
    ).get_concrete_function()
    order = sorted(function.structured_outputs)  # as TensorFlow flattens them

    def run(inputs: Tensors) -> Tensors:
        rows = _rows(core, inputs)
        filled = _fill(core, inputs, tf.maximum(rows, 1))
        found = tf.raw_ops.BatchFunction(
            in_tensors=[filled[spec.name] for spec in core.inputs],
            captured_tensors=function.captured_inputs,
            f=function,
            num_batch_threads=batching.threads,
            max_batch_size=_MOST_ROWS,  # of a request; the last allowed size is that of a batch
            allowed_batch_sizes=list(sizes),
            batch_timeout_micros=batching.timeout_micros,
            max_enqueued_batches=batching.waiting,
            enable_large_batch_splitting=True,
            shared_name=f"{name}-{uuid.uuid4().hex}",
            Tout=[output.dtype for output in function.outputs],
        )
        outputs = dict(zip(order, found, strict=True))
        for output, traced in zip(outputs.values(), function.outputs, strict=True):
            output.set_shape(traced.shape)
        width = tf.reduce_max(core.columns(outputs))
        cut = {key: tf.gather(outputs[key], tf.range(width), axis=core.axis) for key in core.wide}
        return {key: value[:rows] for key, value in (outputs | cut).items()}

    return core._replace(run=run)


def server_parameters(batching: Batching, sizes: Sequence[int]) -> str:
    """The text of `batching_params.pbtxt`, for a server with per-model batching.

    Args:
        batching: How long to wait, and how many batches run and wait.
        sizes: Allowed batch sizes, in ascending order.

    Source: tensorflow_serving/servables/tensorflow/session_bundle_config.proto, BatchingParameters.

    Example:
        >>> print(server_parameters(Batching("server"), (1, 8)).splitlines()[0])
        max_batch_size { value: 8 }
    """
    lines = [
        f"max_batch_size {{ value: {sizes[-1]} }}",
        f"batch_timeout_micros {{ value: {batching.timeout_micros} }}",
        f"max_enqueued_batches {{ value: {batching.waiting} }}",
        f"num_batch_threads {{ value: {batching.threads} }}",
        *(f"allowed_batch_sizes: {size}" for size in sizes),
    ]
    return "\n".join(lines) + "\n"


def _named(core: Core, inputs: Sequence[tf.Tensor]) -> Tensors:
    return dict(zip((spec.name for spec in core.inputs), inputs, strict=True))


def _rows(core: Core, inputs: Tensors) -> tf.Tensor:
    return tf.shape(inputs[core.inputs[0].name])[0]


def _fill(core: Core, inputs: Tensors, rows: tf.Tensor) -> Tensors:
    """Adds idle rows: `[B, ...]` -> `[rows, ...]`."""
    filled = {}
    for name, value in inputs.items():
        shape = tf.shape(value)
        missing = tf.concat([tf.maximum(rows - shape[:1], 0), shape[1:]], axis=0)
        idle = tf.fill(missing, tf.constant(core.idle[name], value.dtype))
        filled[name] = tf.concat([value, idle], axis=0)
    return filled


def _axis(core: Core, name: str) -> int:
    """The axis of an output that counts columns; 0, the rows, where it has none."""
    return core.axis if name in core.wide else 0


def _open(value: tf.Tensor, axis: int) -> tf.TensorShape:
    """The shape of a value whose rows, and columns where it has some, may grow."""
    return tf.TensorShape([None if i in (0, axis) else n for i, n in enumerate(value.shape)])


def _stack(above: tf.Tensor, below: tf.Tensor, axis: int) -> tf.Tensor:
    """Joins rows; those with columns, `[B, T, ...]` and `[C, U, ...]`, as wide as the wider."""
    if axis:
        width = tf.maximum(tf.shape(above)[axis], tf.shape(below)[axis])
        above, below = _widen(above, width, axis), _widen(below, width, axis)
    return tf.concat([above, below], axis=0)


def _widen(value: tf.Tensor, width: tf.Tensor, axis: int) -> tf.Tensor:
    """Fills columns up with zeros."""
    shape = tf.shape(value)
    missing = tf.concat([shape[:axis], [width - shape[axis]], shape[axis + 1 :]], axis=0)
    return tf.concat([value, tf.zeros(missing, value.dtype)], axis=axis)
