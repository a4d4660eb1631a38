"""The signatures of the SavedModel: tensors in, tensors out, every first axis the rows.

`saved_models/README.md` is their contract. Every input and output has rank 1 or more and the same
first axis, so a server can put rows of different requests, with different settings, into one
batch. Settings are `[B]`, or `[1]` for all rows.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from tfgpt2.errors import explain, nearest
from tfgpt2.generation import stopping
from tfgpt2.generation.config import SAMPLING, GenerationConfig
from tfgpt2.generation.options import EXTRA_OPTIONS, ROW_OPTIONS
from tfgpt2.serving.export import batching
from tfgpt2.serving.export.batching import DEFAULT_SIZES, Batching, Core, Tensors
from tfgpt2.serving.export.signatures import readings
from tfgpt2.serving.export.signatures.readings import TEXT
from tfgpt2.text.generator import TextGenerator

SIGNATURES = (
    "serving_default", "generate", "score", "next_token", "embed", "inspect", "tokenize",
    "detokenize",
)  # fmt: skip
# Those that call a compiled function; the first two call the same one.
COMPILED = ("serving_default", "generate", "score", "next_token", "embed", "inspect")
# The settings that `generate` takes unless an export asks for others.
INPUTS = (
    "max_new_tokens", "min_new_tokens", "temperature", "top_k", "top_p", "min_p",
    "repetition_penalty", "seed",
)  # fmt: skip
SETTINGS = ROW_OPTIONS | EXTRA_OPTIONS  # those it can take
_IDLE = {"max_new_tokens": 0, "seed": 0}  # what a row asks that was added to fill a batch
_WIDE = ("token_ids", "token_logprobs")
_TOP = ("top_ids", "top_logprobs")  # where the configuration asks for `top_logprobs`

Signature = Callable[..., Tensors]


@dataclasses.dataclass(frozen=True)
class Options:
    """What is fixed in an export's signatures.

    Attributes:
        names: Which signatures, of `SIGNATURES`.
        inputs: Settings that `generate` takes, of `SETTINGS`; the others keep their defaults.
        top: Tokens that `next_token` returns.
        inspect_top: Tokens that `inspect` returns for each place.
        batch_sizes: Sizes to which batches are padded, in order; None pads none.
        batching: How requests that come at the same time share a batch.
        most_rows: Rows of the largest batch that requests share, where `batch_sizes` is None.
        stop_limits: Most stop strings of a row, and the most bytes of one.
    """

    names: tuple[str, ...] = SIGNATURES
    inputs: tuple[str, ...] = INPUTS
    top: int = 10
    inspect_top: int = 5
    batch_sizes: tuple[int, ...] | None = None
    batching: Batching | None = None
    most_rows: int = DEFAULT_SIZES[-1]
    stop_limits: tuple[int, int] = (stopping.MOST_STOPS, stopping.LONGEST_STOP)

    def __post_init__(self) -> None:
        """Checks names and numbers.

        Raises:
            ValueError: One is unknown, is there twice, or is out of range.
        """
        _check_names("signatures", self.names, SIGNATURES)
        _check_names("inputs", self.inputs, tuple(SETTINGS), may_be_empty=True)
        limits = ("stop_limits[0]", "stop_limits[1]")
        for name, value, high in (
            ("top", self.top, 1000),
            ("inspect_top", self.inspect_top, 100),
            *zip(limits, self.stop_limits, (stopping.MOST_STOPS, stopping.LONGEST_STOP),
                 strict=True),
        ):  # fmt: skip
            if type(value) is not int or not 1 <= value <= high:
                raise ValueError(
                    explain(
                        f"`{name}` must be an integer in [1, {high}].",
                        fix="Leave it out for the usual value.",
                        **{name: value},
                    )
                )


def build(generator: TextGenerator, options: Options | None = None) -> dict[str, Signature]:
    """Makes the signature functions of a generator.

    Args:
        generator: Whose settings are the defaults.
        options: What is fixed; None is the usual.

    Returns:
        One `tf.function` with a fixed input signature for each name that was asked for.
    """
    options = Options() if options is None else options
    vocabulary = generator.model.config.vocab_size
    cores = {
        "score": lambda: _score(generator),
        "next_token": lambda: readings.next_token(generator, min(options.top, vocabulary)),
        "embed": lambda: readings.embed(generator),
        "inspect": lambda: readings.inspect(generator, min(options.inspect_top, vocabulary)),
    }
    made = {}
    if {"generate", "serving_default"} & set(options.names):
        core = _batched(_continue(generator, options), options, "generate")
        made["serving_default"] = _serving_default(generator, core, options)
        made["generate"] = _generate(generator, core, options)
    for name in options.names:
        if name in cores:
            made[name] = _of_text(name, _batched(cores[name](), options, name))
    made |= {"tokenize": _tokenize(generator), "detokenize": _detokenize(generator)}
    return {name: made[name] for name in SIGNATURES if name in options.names}


def stop_tables(limits: tuple[int, int]) -> int:
    """How many sizes the table of stop strings can have within limits.

    Args:
        limits: Most stop strings of a row, and the most bytes of one.

    Example:
        >>> stop_tables((4, 16))
        2
    """
    sizes = zip((stopping._COUNTS, stopping._WIDTHS), limits, strict=True)
    counts, widths = (sum(size < limit for size in known) + 1 for known, limit in sizes)
    return counts * widths


def _batched(core: Core, options: Options, name: str) -> Core:
    """A core that sees allowed batch sizes, and gathers requests where that is asked for."""
    core = batching.pad_rows(core, options.batch_sizes)
    if options.batching is not None and options.batching.kind == "graph":
        sizes = options.batch_sizes or range(1, options.most_rows + 1)
        core = batching.gather(core, options.batching, sizes, name)
    return core


def _continue(generator: TextGenerator, options: Options) -> Core:
    """The three passes: texts and their settings, one value per row, to continuations."""
    names = tuple(default_settings(generator, options))
    settings = [tf.TensorSpec([None], SETTINGS[name].dtype, name) for name in names]
    most, longest = options.stop_limits

    def run(inputs: Tensors) -> Tensors:
        stop = inputs["stop"]
        stop = tf.where(tf.strings.length(stop) > longest, "", stop)
        # Columns that no row uses go, so that they ask for no larger program.
        used = tf.reduce_any(tf.strings.length(stop) > 0, axis=0)  # [Q]
        columns = tf.range(1, tf.size(used) + 1)
        last = tf.reduce_max(tf.pad(tf.where(used, columns, 1), [[0, 1]], constant_values=1))
        values = {name: inputs[name] for name in names}
        return generator.pipeline(inputs["text"], values, stop[:, :last])

    inputs = (TEXT, *settings, tf.TensorSpec([None, most], tf.string, "stop"))
    idle = {name: SETTINGS[name].off for name in names} | _IDLE | {"text": "", "stop": ""}
    columns, program = generator.output_buckets[-1], generator.program
    wide = _WIDE + (_TOP if program.top_logprobs else ())
    axis = 2 if program.returns > 1 else 1  # [B, n, T]
    return Core(run, inputs, idle, wide, lambda outputs: outputs["num_tokens"], columns, axis)


def _serving_default(generator: TextGenerator, core: Core, options: Options) -> Signature:
    @tf.function(input_signature=[TEXT], autograph=False)
    def serving_default(text: tf.Tensor) -> Tensors:
        return core.run(_spread(text, *_defaults(generator, options), options))

    return serving_default


def _generate(generator: TextGenerator, core: Core, options: Options) -> Signature:
    defaults, default_stop = _defaults(generator, options)

    def generate(*args: tf.Tensor, **kwargs: tf.Tensor) -> Tensors:
        bound = generate.__signature__.bind(*args, **kwargs)
        bound.apply_defaults()
        given = dict(bound.arguments)
        text, stop = given.pop("text"), given.pop("stop")
        return core.run(_spread(text, defaults | given, stop, options))

    # TensorFlow reads the arguments here, and makes their defaults `SignatureDef.defaults`, which
    # gRPC clients may rely on.
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    values = {name: defaults[name] for name in options.inputs} | {"stop": default_stop}
    generate.__signature__ = inspect.Signature([
        inspect.Parameter("text", kind),
        *(inspect.Parameter(name, kind, default=value) for name, value in values.items()),
    ])  # fmt: skip
    specs = [tf.TensorSpec([None], SETTINGS[name].dtype, name) for name in options.inputs]
    stop = tf.TensorSpec([None, None], tf.string, "stop")
    return tf.function(generate, input_signature=[TEXT, *specs, stop], autograph=False)


def _score(generator: TextGenerator) -> Core:
    return Core(
        lambda inputs: generator.scores(inputs["text"]),
        (TEXT,),
        {"text": ""},
        ("token_logprobs",),
        lambda outputs: outputs["num_tokens"] + 1,  # the first token is not counted
        generator.prompt_buckets[-1],
    )


def _of_text(name: str, core: Core) -> Signature:
    """A signature that takes texts alone."""

    def signature(text: tf.Tensor) -> Tensors:
        return core.run({"text": text})

    signature.__name__ = name
    return tf.function(signature, input_signature=[TEXT], autograph=False)


def _tokenize(generator: TextGenerator) -> Signature:
    tokenizer = generator.tokenizer

    @tf.function(input_signature=[TEXT], autograph=False)
    def tokenize(text: tf.Tensor) -> Tensors:
        ids = tokenizer.tokenize(text)  # [B, (T)]
        return {
            "ids": ids.to_tensor(tokenizer.pad_token_id),  # [B, T]
            "num_tokens": tf.cast(ids.row_lengths(), tf.int32),
        }

    return tokenize


def _detokenize(generator: TextGenerator) -> Signature:
    tokenizer = generator.tokenizer

    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.int32, "ids")], autograph=False)
    def detokenize(ids: tf.Tensor) -> Tensors:
        return {
            "text": tokenizer.detokenize(ids, skip_special_tokens=True),
            "text_bytes": tokenizer.detokenize_bytes(ids, skip_special_tokens=True),
        }

    return detokenize


def _spread(text: tf.Tensor, settings: Tensors, stop: tf.Tensor, options: Options) -> Tensors:
    """One value per row; `[1]` settings are those of all rows. Stop strings fill their table."""
    rows, most = tf.shape(text)[0], options.stop_limits[0]
    stop = stop[:, :most]
    missing = tf.fill([tf.shape(stop)[0], most - tf.shape(stop)[1]], "")
    stop = tf.ensure_shape(tf.concat([stop, missing], axis=1), [None, most])
    spread = {name: tf.broadcast_to(value, [rows]) for name, value in settings.items()}
    return {"text": text, **spread, "stop": tf.broadcast_to(stop, [rows, most])}  # [B, Q]


def default_settings(generator: TextGenerator, options: Options) -> dict[str, Any]:
    """Default values of the settings that every row gets, and of those that `generate` takes.

    Args:
        generator: Whose defaults they are.
        options: What is fixed in an export.

    Raises:
        ValueError: An input contradicts what the configuration asks for, or does nothing with it.
    """
    config = generator.generation_config
    values = generator.default_options()
    for name in options.inputs:
        _check_input(config, name, draws="temperature" in options.inputs)
        if name in EXTRA_OPTIONS:
            asked = config.asks(name)
            values[name] = getattr(config, name) if asked else EXTRA_OPTIONS[name].off
    return values


def usual_inputs(config: GenerationConfig) -> tuple[str, ...]:
    """The settings that `generate` takes unless an export asks for others.

    Args:
        config: The generator's; contrastive search draws nothing, so it takes none about draws.

    Example:
        >>> usual_inputs(GenerationConfig(penalty_alpha=0.6, top_k=4))
        ('max_new_tokens', 'min_new_tokens', 'top_k', 'repetition_penalty')
    """
    return tuple(name for name in INPUTS if not _only_drawn(config, name))


def _only_drawn(config: GenerationConfig, name: str) -> bool:
    """Whether a setting is about draws, and nothing is drawn."""
    return config.strategy == "contrastive" and name in {*SAMPLING, "seed"} - {"top_k"}


def _check_input(config: GenerationConfig, name: str, *, draws: bool) -> None:
    """Refuses an input that could do nothing, whatever a request says.

    Raises:
        ValueError: It could.
    """
    searches = {"penalty_alpha": "contrastive search", "diversity_penalty": "groups of beams"}
    if (name in searches and not config.asks(name)) or _only_drawn(config, name):
        raise ValueError(
            explain(
                f"`{name}` acts on {searches.get(name, 'draws')}, and the program of this export"
                " has none.",
                fix="Leave it out, or ask for them in generation_config.",
                inputs=name,
            )
        )
    if name in EXTRA_OPTIONS and not config.asks(name):
        one = EXTRA_OPTIONS[name]
        value = True if one.dtype == "bool" else 2 if one.dtype.startswith("int") else 0.5
        drawn = {"do_sample": True} if draws and config.strategy == "greedy" else {}
        config.updated(**drawn, **{name: value})  # raises where it contradicts another


def _defaults(generator: TextGenerator, options: Options) -> tuple[Tensors, tf.Tensor]:
    """The generator's settings as tensors `[1]`, and its stop strings `[1, Q]`."""
    settings = {
        name: tf.constant([value], SETTINGS[name].dtype)
        for name, value in default_settings(generator, options).items()
    }
    return settings, tf.constant([generator.default_stops()], tf.string)


def _check_names(
    what: str, names: Sequence[Any], known: tuple[str, ...], *, may_be_empty: bool = False
) -> None:
    """Refuses names that are unknown or there twice."""
    for name in names:
        if name not in known or list(names).count(name) > 1:
            raise ValueError(
                explain(
                    f"`{what}` must be distinct names of {', '.join(known)}.",
                    fix=nearest(str(name), known),
                    **{what: name},
                )
            )
    if not names and not may_be_empty:
        raise ValueError(
            explain(
                f"`{what}` must hold at least one name.",
                fix="Leave it out for all.",
                **{what: names},
            )
        )
