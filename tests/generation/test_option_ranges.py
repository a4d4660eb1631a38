"""Every option of the registry refuses what it cannot use, and names a range that says why."""

import re

import pytest

from tfgpt2 import GenerationConfig
from tfgpt2.generation.from_config import decode_spec, extra_params
from tfgpt2.generation.option_table import OPTIONS, ROW_OPTIONS
from tfgpt2.generation.options import COUNTS, REQUEST_OPTIONS
from tfgpt2.generation.params import option_rows

V, ROWS = 23, 2
NUMBERS = [one for one in (*ROW_OPTIONS.values(), *COUNTS)
           if one.dtype != "bool" and one.name != "early_stopping"]  # fmt: skip
HUGE = 10**400
WRONG = [1e30, -1e30, float("nan"), float("inf"), HUGE, -HUGE, 2**31, 2**63, "x", b"x", True, 2.5,
         [], [[]], [[[]]], {}, {1: 2}, [1e30], [float("nan")], ["x"], [[1e30]], [None], object(),
         (1, float("nan")), (1, HUGE), (HUGE, 1.5), (1.5, 1.5), [[[1], float("nan")]],
         [[[1], HUGE]], 1 + 2j]  # fmt: skip
# They take what these tests cannot make, or any string.
OTHER = {"stop_strings", "regex", "choices", "json_schema"}


def use(name, value):
    """What both ways to generate do with an option, up to the program."""
    config = GenerationConfig(do_sample=name in ROW_OPTIONS).updated(**{name: value})
    for one, option in REQUEST_OPTIONS.items():
        option_rows(option, config.request_values()[one], ROWS)
    decode_spec(config, V)
    extra_params(config, ROWS, V, None)


def outside(option):
    """Values next to the range, and far from it."""
    if option.dtype.startswith("float"):
        low, high = float(option.low), float(option.high)
        return [low - 1e-9 - abs(low) * 1e-3, low - 1, high * 1.01 + 1e-6, high + 1e30, -1e30]
    return [option.low - 1, option.low - 10**9, option.high + 1, option.high * 1000 + 1000]


@pytest.mark.parametrize("option", NUMBERS, ids=lambda option: option.name)
def test_the_range_that_is_named_does_not_hold_the_value(option):
    for value in outside(option):
        with pytest.raises((TypeError, ValueError)) as caught:
            use(option.name, value)
        named, received = str(caught.value).split(" Received: ")
        assert f"`{option.name}`" in named and received.startswith(f"{option.name}=")
        limits = {float(one) for one in re.findall(r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?", named)}
        limit = option.low if value < option.low else option.high
        assert float(limit) in limits, f"{value}: {caught.value}"


@pytest.mark.parametrize("option", NUMBERS, ids=lambda option: option.name)
def test_the_ends_of_the_range_are_inside(option):
    for value in (option.low, option.high):
        GenerationConfig.from_dict({option.name: value})


@pytest.mark.parametrize("name", sorted(OPTIONS.keys() - OTHER))
def test_values_of_the_wrong_kind_end_in_an_explained_error(name):
    refused = 0
    for value in WRONG:
        try:
            use(name, value)
        except (TypeError, ValueError) as error:
            assert "Received: " in str(error), f"{name}={value!r}: {error}"
            refused += 1
        except Exception as error:
            raise AssertionError(f"{name}={value!r}") from error
    assert refused > len(WRONG) / 2


@pytest.mark.parametrize(
    "value", [1e30, float("nan"), 2.5, "end", -1, 2**31, HUGE, [1, 1e30], True]
)
def test_end_tokens(value):
    with pytest.raises(ValueError, match=r"`eos_token_id` must be an integer of 0 or more, at most"
                       r" 2147483647\. Received: eos_token_id="):  # fmt: skip
        GenerationConfig(eos_token_id=value)


def test_more_top_logprobs_than_tokens():
    with pytest.raises(ValueError, match="`top_logprobs` must be at most 23.*top_logprobs=24"):
        use("top_logprobs", 24)
    use("top_logprobs", 23)
