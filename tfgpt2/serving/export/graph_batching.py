"""Batches inside the graph: padded to a few sizes, and shared by concurrent requests.

XLA compiles one program per shape, so the number of rows is rounded up to an allowed size before a
compiled function is called. Rows that are added hold the signature's `padding_values`.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence

import tensorflow as tf

from tfgpt2.generation.buckets import round_up
from tfgpt2.serving.export.batching_options import DEFAULT_SIZES, MAX_ROWS, Batching
from tfgpt2.serving.export.signatures.base import RowFn, SignatureFn, Tensors


def batch_rows(signature: SignatureFn) -> RowFn:
    """A signature's function, in padded and shared batches as its options say.

    Args:
        signature: One that is not compiled runs every batch as it is.
    """
    if not signature.compiled:
        return signature
    options = signature.options
    rows = pad_rows(signature, options.batch_sizes)
    if options.batching is not None and options.batching.kind == "graph":
        sizes = options.batch_sizes or range(1, DEFAULT_SIZES[-1] + 1)
        rows = share_batches(signature, rows, options.batching, sizes)
    return rows


def pad_rows(signature: SignatureFn, sizes: Sequence[int] | None) -> RowFn:
    """A signature's function for batches of any size, run in batches of certain sizes.

    A batch is padded to the next size; one beyond the largest runs in parts of that size, one
    after the other.

    Args:
        signature: The signature.
        sizes: In ascending order; None runs every batch as it is, and pads an empty one to a row.
    """

    def pad_empty(inputs: Tensors) -> Tensors:
        rows = _num_rows(signature, inputs)
        outputs = signature(_pad(signature, inputs, tf.maximum(rows, 1)))
        return {name: value[:rows] for name, value in outputs.items()}

    if sizes is None:
        return pad_empty
    largest = sizes[-1]
    # A function of its own: it is called in two places and traced once.
    part = _trace(signature, signature)

    def run(inputs: Tensors) -> Tensors:
        rows = _num_rows(signature, inputs)

        def run_part(start: tf.Tensor) -> Tensors:
            count = tf.minimum(rows - start, largest)
            taken = {name: value[start : start + count] for name, value in inputs.items()}
            padded = _pad(signature, taken, round_up(count, sizes))
            outputs = part(*(padded[spec.name] for spec in signature.row_inputs))
            return {name: value[:count] for name, value in outputs.items()}

        def append_part(start: tf.Tensor, done: Tensors) -> tuple[tf.Tensor, Tensors]:
            new = run_part(start)
            return start + largest, {
                name: _concat(done[name], new[name], _ragged_axis(signature, name)) for name in done
            }

        first = run_part(tf.constant(0))
        shapes = {
            name: _open_shape(value, _ragged_axis(signature, name)) for name, value in first.items()
        }
        _, outputs = tf.while_loop(
            lambda start, done: start < rows,
            append_part,
            (tf.constant(largest), first),
            shape_invariants=(tf.TensorShape([]), shapes),
        )
        return outputs

    return run


def share_batches(
    signature: SignatureFn, rows: RowFn, batching: Batching, sizes: Sequence[int]
) -> RowFn:
    """A function whose concurrent calls share one call of another.

    Args:
        signature: The signature; inputs of rank 2 must have as many columns in all requests.
        rows: The function to call.
        batching: Time limit, threads and queue.
        sizes: Allowed batch sizes, in ascending order. A request of more rows than the largest, up
            to 1024, is split and joined again.
    """
    ragged, axis = signature.ragged_outputs, signature.ragged_axis

    def run_batch(inputs: Tensors) -> Tensors:
        # At full width: the rows of one request may fall into two batches, whose results the
        # operation joins.
        outputs = rows(inputs)
        width = tf.constant(signature.max_length)
        return outputs | {name: _widen(outputs[name], width, axis) for name in ragged}

    function = _trace(signature, run_batch)
    names = sorted(function.structured_outputs)  # in the order in which TensorFlow flattens them

    def run(inputs: Tensors) -> Tensors:
        count = _num_rows(signature, inputs)
        padded = _pad(signature, inputs, tf.maximum(count, 1))
        found = tf.raw_ops.BatchFunction(
            in_tensors=[padded[spec.name] for spec in signature.row_inputs],
            captured_tensors=function.captured_inputs,
            f=function,
            num_batch_threads=batching.num_batch_threads,
            max_batch_size=MAX_ROWS,  # of a request; the last allowed size is that of a batch
            allowed_batch_sizes=list(sizes),
            batch_timeout_micros=batching.batch_timeout_micros,
            max_enqueued_batches=batching.max_enqueued_batches,
            enable_large_batch_splitting=True,
            # Queues of one name are one queue that runs one function, so each place in a graph
            # gets a name of its own.
            shared_name=f"{signature.program}-{uuid.uuid4().hex}",
            Tout=[output.dtype for output in function.outputs],
        )
        outputs = dict(zip(names, found, strict=True))
        for output, traced in zip(outputs.values(), function.outputs, strict=True):
            output.set_shape(traced.shape)
        if ragged:
            columns = tf.range(tf.reduce_max(signature.output_lengths(outputs)))
            outputs |= {name: tf.gather(outputs[name], columns, axis=axis) for name in ragged}
        return {name: value[:count] for name, value in outputs.items()}

    return run


def _trace(signature: SignatureFn, rows: RowFn) -> tf.types.experimental.ConcreteFunction:
    """Traces a function of rows as one of positional tensors, in the order of `row_inputs`."""
    specs = signature.row_inputs
    return tf.function(
        lambda *inputs: rows(dict(zip((spec.name for spec in specs), inputs, strict=True))),
        input_signature=specs,
        autograph=False,
    ).get_concrete_function()


def _num_rows(signature: SignatureFn, inputs: Tensors) -> tf.Tensor:
    return tf.shape(inputs[signature.row_inputs[0].name])[0]


def _pad(signature: SignatureFn, inputs: Tensors, rows: tf.Tensor) -> Tensors:
    """Adds rows of padding values: `[B, ...]` -> `[rows, ...]`."""
    padded = {}
    for name, value in inputs.items():
        shape = tf.shape(value)
        missing = tf.concat([tf.maximum(rows - shape[:1], 0), shape[1:]], axis=0)
        padding = tf.fill(missing, tf.constant(signature.padding_values[name], value.dtype))
        padded[name] = tf.concat([value, padding], axis=0)
    return padded


def _ragged_axis(signature: SignatureFn, name: str) -> int:
    """The axis `T` of an output; 0, the rows, where it has none."""
    return signature.ragged_axis if name in signature.ragged_outputs else 0


def _open_shape(value: tf.Tensor, axis: int) -> tf.TensorShape:
    """A value's shape with rows and columns of any number."""
    return tf.TensorShape([None if i in (0, axis) else n for i, n in enumerate(value.shape)])


def _concat(above: tf.Tensor, below: tf.Tensor, axis: int) -> tf.Tensor:
    """Joins rows: `[B, T, ...]` and `[C, U, ...]` -> `[B + C, max(T, U), ...]`."""
    if axis:
        width = tf.maximum(tf.shape(above)[axis], tf.shape(below)[axis])
        above, below = _widen(above, width, axis), _widen(below, width, axis)
    return tf.concat([above, below], axis=0)


def _widen(value: tf.Tensor, width: tf.Tensor, axis: int) -> tf.Tensor:
    """Fills columns up with zeros."""
    shape = tf.shape(value)
    missing = tf.concat([shape[:axis], [width - shape[axis]], shape[axis + 1 :]], axis=0)
    return tf.concat([value, tf.zeros(missing, value.dtype)], axis=axis)
