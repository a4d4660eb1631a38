"""`SignatureFn`: a signature of an export, with what padding, checks and warm-up need of it."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import product
from typing import Any, ClassVar, NamedTuple

import tensorflow as tf

from tfgpt2.errors import nearest, value_error
from tfgpt2.generation import stopping
from tfgpt2.generation.option_table import EXTRA_OPTIONS
from tfgpt2.generation.options import REQUEST_OPTIONS
from tfgpt2.serving.export.batching_options import Batching
from tfgpt2.text.generator import TextGenerator

Tensors = dict[str, tf.Tensor]
RowFn = Callable[[Tensors], Tensors]  # the first axis of every tensor is the rows
TEXT = tf.TensorSpec([None], tf.string, name="text")
SETTINGS = REQUEST_OPTIONS | EXTRA_OPTIONS  # those that `generate` can take


@dataclasses.dataclass(frozen=True)
class SignatureOptions:
    """Options that are fixed in an export's signatures.

    Attributes:
        names: Signatures to export; None is all.
        inputs: Settings that `generate` takes, of `SETTINGS`; None is the usual ones.
        top: Tokens that `next_token` returns.
        inspect_top: Tokens that `inspect` returns for each place.
        batch_sizes: Sizes to which batches are padded, in order; None pads none.
        batching: How concurrent requests share a batch.
        stop_limits: Most stop strings of a row, and the most bytes of one.
    """

    names: tuple[str, ...] | None = None
    inputs: tuple[str, ...] | None = None
    top: int = 10
    inspect_top: int = 5
    batch_sizes: tuple[int, ...] | None = None
    batching: Batching | None = None
    stop_limits: tuple[int, int] = (stopping.MOST_STOPS, stopping.LONGEST_STOP)

    def __post_init__(self) -> None:
        """Checks inputs and numbers.

        Raises:
            ValueError: An input is unknown or repeated, or a number is out of range.
        """
        check_names("inputs", self.inputs or (), SETTINGS)
        for name, value, high in (
            ("top", self.top, 1000),
            ("inspect_top", self.inspect_top, 100),
            ("stop_limits[0]", self.stop_limits[0], stopping.MOST_STOPS),
            ("stop_limits[1]", self.stop_limits[1], stopping.LONGEST_STOP),
        ):
            if type(value) is not int or not 1 <= value <= high:
                problem = f"`{name}` must be an integer in [1, {high}]."
                fix = "Leave it out for the default."
                raise value_error(problem, fix=fix, **{name: value})


def check_names(argument: str, names: Sequence[Any], known: Iterable[str]) -> None:
    """Refuses names that are unknown or repeated.

    Raises:
        ValueError: One is.
    """
    for name in names:
        if name not in known or list(names).count(name) > 1:
            problem = f"`{argument}` must be distinct names of {', '.join(known)}."
            raise value_error(problem, fix=nearest(str(name), known), **{argument: name})


class Programs(NamedTuple):
    """Number of programs that XLA can compile for one signature, by factor.

    Attributes:
        batch_sizes: Allowed batch sizes; None when batches of any size are run as they are.
        prompt_buckets: Prompt buckets.
        output_buckets: Output buckets; 1 where nothing is generated.
        stop_tables: Sizes of the table of stop strings; an ordinary request uses the smallest.
    """

    batch_sizes: int | None
    prompt_buckets: int
    output_buckets: int = 1
    stop_tables: int = 1

    @property
    def most(self) -> int | None:
        """The product, or None when nothing bounds it."""
        if self.batch_sizes is None:
            return None
        return self.batch_sizes * self.prompt_buckets * self.output_buckets * self.stop_tables

    def __str__(self) -> str:
        """The product and its factors."""
        if self.most is None:
            return "no bound: one for each number of rows (set batch_sizes)"
        parts = [f"{self.batch_sizes} batch sizes", f"{self.prompt_buckets} prompt buckets"]
        if self.output_buckets > 1:
            parts.append(f"{self.output_buckets} output buckets")
        if self.stop_tables > 1:
            parts.append(f"{self.stop_tables} stop tables")
        return f"at most {self.most} = {' x '.join(parts)}"


class WarmupShapes(NamedTuple):
    """Shapes that an export compiles.

    Attributes:
        batch_sizes: Numbers of rows.
        prompts: A text for each prompt bucket.
        new_tokens: A number of new tokens for each output bucket.
    """

    batch_sizes: tuple[int, ...]
    prompts: tuple[str, ...]
    new_tokens: tuple[int, ...]


class SignatureFn:
    """A signature: a function from tensors by name to tensors by name, row by row.

    To add one, subclass this in a file of its own and list the class in
    `tfgpt2.serving.export.signatures.registry.SIGNATURES`.

    Every input and output has rank 1 or more and the same first axis, the rows. A signature that
    reads texts with TensorFlow operations alone needs a `name` and `__call__`. One that calls a
    program compiled by XLA sets `compiled`: then its batches are padded to the allowed sizes, may
    be shared by concurrent requests, are warmed up, and are counted in the report.

    Args:
        generator: The text generator to export; its settings are the defaults.
        options: Options of the export.

    Attributes:
        name: Name of the signature.
        inputs: Names, types and shapes of its inputs, the first axis open.
        padding_values: By input of `__call__`, the value in rows that fill up a batch.
        ragged_outputs: Outputs `[B, T, ...]`, as wide as the longest row of the batch.
        ragged_axis: Axis `T` of those; 2 where each row has several texts, `[B, n, T, ...]`.
        compiled: Whether it calls a function that XLA may compile.
        record: Class of `tfgpt2.serving.client.records` that the client makes of a row; None
            where the client returns the outputs by name.

    Example:
        >>> class CountTokens(SignatureFn):
        ...     name = "count_tokens"
        ...
        ...     def __call__(self, inputs):
        ...         tokens = self.generator.tokenizer.tokenize(inputs["text"])  # [B, (T)]
        ...         return {"num_tokens": tf.cast(tokens.row_lengths(), tf.int32)}
        >>> generator = TextGenerator.from_pretrained("shakespeare-tiny")
        >>> count = CountTokens(generator, SignatureOptions())
        >>> count({"text": tf.constant(["To be"])})["num_tokens"].numpy().tolist()
        [2]
    """

    name: ClassVar[str]
    inputs: tuple[tf.TensorSpec, ...] = (TEXT,)
    padding_values: Mapping[str, Any] = {"text": ""}
    ragged_outputs: tuple[str, ...] = ()
    ragged_axis: int = 1
    compiled: ClassVar[bool] = False
    record: ClassVar[type | None] = None

    def __init__(self, generator: TextGenerator, options: SignatureOptions) -> None:
        self.generator, self.options = generator, options

    def __call__(self, inputs: Tensors) -> Tensors:
        """Computes the outputs.

        Args:
            inputs: A tensor for each of `row_inputs`, with one row or more.

        Returns:
            Tensors with as many rows.
        """
        raise NotImplementedError

    @classmethod
    def is_available(cls, generator: TextGenerator, options: SignatureOptions) -> bool:
        """Whether an export of the generator can have it."""
        return True

    # What `__call__` takes, where it differs from the inputs of the signature -------------------

    @property
    def row_inputs(self) -> tuple[tf.TensorSpec, ...]:
        """Inputs of `__call__`."""
        return self.inputs

    def default_inputs(self) -> Tensors:
        """Default values of inputs; TensorFlow writes them into `SignatureDef.defaults`."""
        return {}

    def to_rows(self, inputs: Tensors) -> Tensors:
        """Turns the inputs of the signature into those of `__call__`."""
        return inputs

    # Shapes and programs -----------------------------------------------------------------------

    @property
    def program(self) -> str:
        """Name of the compiled function, which signatures may share."""
        return self.name

    @property
    def max_length(self) -> int:
        """Largest size of `ragged_axis`."""
        return self.generator.prompt_buckets[-1]

    def output_lengths(self, outputs: Tensors) -> tf.Tensor:
        """Size of `ragged_axis` that each row needs: int32 `[B]`, or `[B, n]`."""
        return outputs["num_tokens"]

    def count_programs(self) -> Programs | None:
        """Number of programs that XLA can compile; None where it compiles none."""
        if not (self.compiled and self.generator.jit_compile_loop):
            return None
        sizes = self.options.batch_sizes
        return Programs(sizes and len(sizes), len(self.generator.prompt_buckets))

    # Requests ----------------------------------------------------------------------------------

    def probe_inputs(self, text: tf.Tensor) -> Tensors | None:
        """Inputs of the self-check, made of texts `[B]`; None leaves the signature out."""
        return {spec.name: text for spec in self.inputs}

    def warmup_inputs(self, shapes: WarmupShapes) -> Iterable[Tensors]:
        """Inputs of the warm-up requests: one for each program, or a single one of padding."""
        if self.compiled:
            for size, prompt in product(shapes.batch_sizes, shapes.prompts):
                yield {"text": text_column(prompt, size)}
        else:
            yield self.padding_request()

    def padding_request(self) -> Tensors:
        """The smallest request: one row of padding values."""
        values = self.padding_values
        return {one.name: tf.fill([1] * one.shape.rank, values[one.name]) for one in self.inputs}

    def build(self, rows: RowFn) -> tf.types.experimental.PolymorphicFunction:
        """Makes the function that is exported.

        Args:
            rows: `__call__`, or a function that runs it in padded or shared batches.

        Returns:
            A `tf.function` whose arguments are `inputs`, in that order.
        """

        def signature(*args: tf.Tensor, **kwargs: tf.Tensor) -> Tensors:
            bound = signature.__signature__.bind(*args, **kwargs)
            bound.apply_defaults()
            return rows(self.to_rows(dict(bound.arguments)))

        # TensorFlow reads names and defaults of the arguments here.
        defaults = self.default_inputs()
        parameters = [
            inspect.Parameter(
                spec.name,
                inspect.Parameter.POSITIONAL_OR_KEYWORD,
                default=defaults.get(spec.name, inspect.Parameter.empty),
            )
            for spec in self.inputs
        ]
        signature.__name__ = self.name
        signature.__signature__ = inspect.Signature(parameters)
        return tf.function(signature, input_signature=self.inputs, autograph=False)


def text_column(first: str, size: int) -> tf.Tensor:
    """One text and `size - 1` empty ones: string `[size]`."""
    return tf.constant([first, *[""] * (size - 1)])
