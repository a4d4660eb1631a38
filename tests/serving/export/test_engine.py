"""The engine's signatures: rows that come and go generate what `generate` does."""

import numpy as np
import pytest
import tensorflow as tf

from tests.support import toy_text
from tfgpt2 import GenerationConfig, TextGenerator
from tfgpt2.generation.options import REQUEST_OPTIONS
from tfgpt2.nn.kv_cache import stored_dtype
from tfgpt2.serving.export import engine_state
from tfgpt2.serving.export.signatures import registry
from tfgpt2.serving.export.signatures.base import SignatureOptions
from tfgpt2.serving.export.stored_weights import convert

NAMES = ("generate", "engine_start", "engine_start_ids", "engine_join", "engine_advance")
NO_STATE = ("prompt_tokens", "truncated", "finish_reason")
PROMPTS = ["ROMEO:\nBut soft", "a", "Thy naïve 😀 heart", "", "the the the he"]
SETTINGS_OF = [
    {"max_new_tokens": 20, "stop": ["zz", "é"]},
    {"max_new_tokens": 25, "temperature": 1.0, "seed": 3},
    {"max_new_tokens": 9, "temperature": 0.7, "seed": 4, "top_k": 9, "repetition_penalty": 1.3},
    {"max_new_tokens": 30, "temperature": 1.3, "seed": 5, "stop": ["e"] * 5 + ["t" * 20]},
    {"max_new_tokens": 12, "temperature": 1.0, "seed": 6, "top_p": 0.8, "min_new_tokens": 12},
]


class Slots:
    """A server's state: starts, joins and advances rows."""

    def __init__(self, functions):
        self.functions, self.state, self.rows = functions, None, []

    def start(self, *rows):
        outputs = call(self.functions["engine_start"], rows)
        return state_of(outputs)

    def join(self, started, source):
        first = started if self.state is None else self.state
        other = {f"other_{name}": value for name, value in (started or first).items()}
        self.state = self.functions["engine_join"](**first, **other, source=tf.constant(source))

    def advance(self, steps, active=None):
        active = [1] * len(self.state["reason"]) if active is None else active
        changed = self.functions["engine_advance"](
            **self.state, active=tf.constant(active), steps=tf.constant([steps])
        )
        reasons = changed.pop("finish_reason").numpy().tolist()
        self.state = self.state | changed
        return reasons

    def row(self, slot):
        count = int(self.state["num_tokens"][slot])
        return (
            self.state["token_ids"][slot, :count].numpy().tolist(),
            self.state["token_logprobs"][slot, :count].numpy(),
        )


def state_of(outputs):
    return {name: value for name, value in outputs.items() if name not in NO_STATE}


def call(function, rows):
    """Calls `generate` or a start with rows of `PROMPTS` by number."""
    return call_with(function, [PROMPTS[row] for row in rows], [SETTINGS_OF[row] for row in rows])


def call_with(function, prompts, settings, **more):
    """Calls it with every setting, since each subset would be traced by itself."""
    off = {name: one.off for name, one in REQUEST_OPTIONS.items()} | {"seed": 0}
    stops = [one.get("stop", []) for one in settings]
    width = max([1, *map(len, stops)])
    inputs = {
        name: tf.constant([one.get(name, value) for one in settings], REQUEST_OPTIONS[name].dtype)
        for name, value in off.items()
    }
    stop = tf.constant([[*one, *[""] * (width - len(one))] for one in stops])
    return function(tf.constant(prompts), **inputs, stop=stop, **more)


def build(generator, names=NAMES):
    return registry.build(registry.create(generator, SignatureOptions(names=names)))


@pytest.fixture(scope="module")
def functions():
    return build(toy_text.generator(generation_config=GenerationConfig(), jit_compile=False))


@pytest.fixture(scope="module")
def expected(functions):
    return generated(functions)


def generated(functions):
    """Ids, log-probabilities and finish reason of each row, alone, from `generate`."""
    found = []
    for row in range(len(PROMPTS)):
        outputs = {
            name: value.numpy()[0] for name, value in call(functions["generate"], [row]).items()
        }
        count = outputs["num_tokens"]
        found.append((outputs["token_ids"][:count].tolist(), outputs["token_logprobs"][:count],
                      outputs["finish_reason"]))  # fmt: skip
    return found


def assert_row(slots, slot, reason, expected):
    ids, logprobs = slots.row(slot)
    assert (ids, reason) == (expected[0], expected[2])
    np.testing.assert_allclose(logprobs, expected[1], atol=1e-5)


def test_rows_of_different_age_share_a_state(functions, expected):
    """They come one after the other, into other slots and larger states; one is dropped."""
    slots = Slots(functions)
    slots.join(slots.start(0), [0, -1])
    slots.advance(3)
    slots.join(slots.start(1, 4), [2, 0, 3, -1])  # rows 1, 0, 4
    slots.advance(5)
    slots.join(slots.start(3, 2), [5, 0, 2, 1, 4])  # rows 2, 1, 4, 0, 3
    slots.advance(4, active=[1, 1, 0, 1, 1])  # the client of row 4 has left
    for _ in range(9):
        reasons = slots.advance(7)
    for slot, row in ((0, 2), (1, 1), (3, 0), (4, 3)):
        assert_row(slots, slot, reasons[slot], expected[row])
    assert slots.row(2)[0] == expected[4][0][:5] and reasons[2] == b"time"


@pytest.mark.long
@pytest.mark.parametrize("weights", ["bfloat16", "float16"])
def test_rows_of_compiled_16_bit_weights(weights):
    """One row, a few rows and many multiply in different forms, and get the same tokens."""
    plain = toy_text.generator(generation_config=GenerationConfig())
    model, _ = convert(plain.model, weights)
    functions = build(TextGenerator(model, plain.tokenizer, GenerationConfig()))
    test_rows_of_different_age_share_a_state(functions, generated(functions))


def test_a_row_alone_and_moved(functions, expected):
    slots = Slots(functions)
    slots.join(slots.start(3), [0])
    slots.advance(2)
    slots.join(None, [-1, 1, -1])
    slots.advance(2)
    slots.join(None, [1])
    reasons = slots.advance(64)
    assert_row(slots, 0, reasons[0], expected[3])


@pytest.mark.long
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_rows_with_a_cache_in_16_bits(dtype):
    """A row in a crowd is what it is alone. (`generate` reads prompts before they are rounded.)"""
    generator = toy_text.generator(
        generation_config=GenerationConfig(), jit_compile=False, cache_dtype=dtype
    )
    functions, alone = build(generator), {}
    for row in (0, 1, 2):
        slots = Slots(functions)
        slots.join(slots.start(row), [0])
        alone[row] = (slots.advance(64)[0], *slots.row(0))
    slots = Slots(functions)
    slots.join(slots.start(0), [0, -1])
    slots.advance(3)
    slots.join(slots.start(1, 4), [2, 0, 3, -1])  # rows 1, 0, 4
    slots.advance(5)
    slots.join(slots.start(2), [4, 1, -1, 0])  # rows 2, 0, -, 1
    reasons = slots.advance(64)
    assert slots.state["keys_0"].dtype == stored_dtype(dtype)
    for slot, row in ((0, 2), (1, 0), (3, 1)):
        reason, ids, logprobs = alone[row]
        assert_row(slots, slot, reasons[slot], (ids, logprobs, reason))


def test_ids_are_read_as_they_are(functions):
    ids = "82 79 77 69 79 58 10 66 117 116 32 115 111 102 116"  # the bytes of the first prompt
    outputs = call_with(
        functions["engine_start_ids"], [ids, "999999"], [{"max_new_tokens": 20}] * 2
    )
    assert outputs["prompt_tokens"].numpy().tolist() == [15, 0]
    assert outputs["prompt_ids"].numpy()[0, -15:].tolist() == list(map(int, ids.split()))
    assert outputs["finish_reason"].numpy().tolist() == [b"running", b"unknown_token"]


def test_the_drawing_of_the_contract(functions):
    """The numbers in `saved_models/README.md`."""

    def start(prompt, new):
        ids, settings = " ".join(["65"] * prompt), {"max_new_tokens": new, "min_new_tokens": new}
        return state_of(call_with(functions["engine_start_ids"], [ids], [settings]))

    slots = Slots(functions)
    slots.join(start(7, 40), [0])
    slots.advance(3)
    slots.join(start(12, 40), [1, -1, 0, -1])
    slots.advance(1)
    slots.join(start(30, 4), [0, 4, 2, -1])
    assert slots.advance(4) == [b"running", b"length", b"running", b"length"]
    before = {name: slots.state[name].numpy().tolist() for name in ("num_tokens", "cached_tokens")}
    assert before["num_tokens"][:3] == [5, 4, 8]
    assert before["cached_tokens"] == [16, 33, 14, 0]
    slots.join(start(20, 40), [0, 4, 2, -1])
    assert slots.state["num_tokens"].numpy().tolist()[:3] == [5, 0, 8]
    assert slots.state["cached_tokens"].numpy().tolist() == [16, 19, 14, 0]
    slots.advance(8)
    assert slots.state["cached_tokens"].numpy().tolist() == [24, 27, 22, 0]


@pytest.mark.long
@pytest.mark.parametrize("options", [
    {"generation_config": GenerationConfig(regex="[a-m ]{3,12}", max_new_tokens=20)},
    {"generation_config": GenerationConfig(top_logprobs=3, no_repeat_ngram_size=2, max_new_tokens=8,
                                           eos_token_id=[101, 102])},
    {"prefix": "O Romeo, ", "on_long_prompt": "error"},
])  # fmt: skip
def test_configurations(options):
    """Constraints, processors and prefixes of an export."""
    functions = build(toy_text.generator(jit_compile=False, **options))
    alone = {name: value.numpy() for name, value in call(functions["generate"], [0, 1]).items()}
    slots = Slots(functions)
    slots.join(slots.start(0), [0])
    slots.advance(2)
    slots.join(slots.start(1), [0, 1])
    reasons = slots.advance(64)
    for slot in range(2):
        count = alone["num_tokens"][slot]
        expected = alone["token_ids"][slot, :count].tolist(), alone["token_logprobs"][slot, :count]
        assert_row(slots, slot, reasons[slot], (*expected, alone["finish_reason"][slot]))
        if "top_ids" in alone:
            found = slots.state["top_ids"][slot, :count].numpy().tolist()
            assert found == alone["top_ids"][slot, :count].tolist()


def test_exports_without_an_engine():
    generator = toy_text.generator(
        generation_config=GenerationConfig(num_beams=2, max_new_tokens=4), jit_compile=False
    )
    names = registry.create(generator).keys()
    assert "generate" in names and not [name for name in names if name.startswith("engine_start")]
    with pytest.raises(ValueError, match="The engine decodes greedily"):
        registry.create(generator, SignatureOptions(names=NAMES))


@pytest.mark.long
def test_settings_that_only_the_engine_takes(functions):
    """Penalties and biases of single tokens are those of `GenerationConfig`, in any company."""
    tokens = 12
    generator = toy_text.generator(jit_compile=False)
    (free,) = generator.generate([PROMPTS[4]], temperature=0, max_new_tokens=tokens, details=True)
    first, often = free.token_ids[0], int(np.bincount(free.token_ids).argmax())
    asked = [
        ({"logit_bias": f"{first}:-100 {often}:1.5"},
         {"sequence_bias": {(int(first),): -100.0, (often,): 1.5}}),
        ({"presence_penalty": 50.0}, {"presence_penalty": 50.0}),
        ({"frequency_penalty": 0.7}, {"frequency_penalty": 0.7}),
        ({"logit_bias": " ".join(f"{one}:100" for one in range(20))},
         {"sequence_bias": {(one,): 100.0 for one in range(20)}}),
    ]  # fmt: skip
    slots = Slots(functions)
    off = {"presence_penalty": 0.0, "frequency_penalty": 0.0, "logit_bias": ""}
    for row, (settings, _) in enumerate(asked):
        values = {name: tf.constant([settings.get(name, value)]) for name, value in off.items()}
        started = call_with(functions["engine_start"], [PROMPTS[4]],
                            [{"max_new_tokens": tokens}], **values)  # fmt: skip
        slots.join(state_of(started), [*range(row), 4 if row else 0, *[-1] * (3 - row)])
        slots.advance(2)
    assert slots.state["bias_ids"].shape[1] == 128
    for _ in range(2):
        slots.advance(tokens)
    texts = []
    for slot, (_, config) in enumerate(asked):
        (found,) = generator.generate(
            [PROMPTS[4]], temperature=0, max_new_tokens=tokens, details=True, **config
        )
        ids, logprobs = slots.row(slot)
        assert ids == list(found.token_ids)
        np.testing.assert_allclose(logprobs, found.token_logprobs, atol=1e-5)
        texts.append(ids)
    assert len({*map(tuple, texts), tuple(free.token_ids)}) == 5
    slots.join(None, [1, 2])
    assert slots.state["bias_ids"].shape[1] == 1


@pytest.mark.parametrize("written", ["999999:1", "5", "x:1", "5:1e9", "-1:2", "5:nan"])
def test_a_bias_of_no_token_is_refused(functions, written):
    more = {"presence_penalty": [0.0] * 2, "frequency_penalty": [0.0] * 2}
    more |= {"logit_bias": ["5:1", written]}
    outputs = call_with(
        functions["engine_start"], ["a", "a"], [{"max_new_tokens": 3}] * 2,
        **{name: tf.constant(value) for name, value in more.items()},
    )  # fmt: skip
    assert outputs["finish_reason"].numpy().tolist() == [b"running", b"unknown_token"]


def test_sizes():
    assert engine_state.state_sizes(64) == (64,)
    assert engine_state.state_sizes(256) == (128, 256)
