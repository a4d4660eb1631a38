"""The number types of GGUF: plain floats, and blocks of integers that share a scale.

Source: https://github.com/ggml-org/ggml, `src/ggml-quants.c::dequantize_row_*` and
`src/ggml-common.h::block_*`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import ml_dtypes
import numpy as np

FLOATS = {
    0: np.dtype(np.float32),
    1: np.dtype(np.float16),
    30: np.dtype(ml_dtypes.bfloat16),
    28: np.dtype(np.float64),
}
# Names of the types that exist, for errors.
NAMES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0", 9: "Q8_1",
    10: "Q2_K", 11: "Q3_K", 12: "Q4_K", 13: "Q5_K", 14: "Q6_K", 15: "Q8_K", 16: "IQ2_XXS",
    17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 20: "IQ4_NL", 21: "IQ3_S", 22: "IQ2_S",
    23: "IQ4_XS", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64", 29: "IQ1_M", 30: "BF16",
    34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4",
}  # fmt: skip


class Blocks(NamedTuple):
    """A quantised type: elements and bytes of a block, and its values.

    Attributes:
        size: Elements of a block.
        nbytes: Bytes of a block.
        values: From blocks uint8 `[M, nbytes]` to float32 `[M, size]`.
    """

    size: int
    nbytes: int
    values: Callable[[np.ndarray], np.ndarray]


def _half(blocks: np.ndarray, start: int) -> np.ndarray:
    """Reads the float16 at a byte of each block, as float32 `[M, 1]`."""
    return blocks[:, start : start + 2].copy().view(np.float16).astype(np.float32)


def _nibbles(packed: np.ndarray) -> np.ndarray:
    """Unpacks bytes `[M, n]` into `[M, 2 * n]`: all low halves, then all high halves."""
    return np.concatenate([packed & 15, packed >> 4], axis=1)


def _fifth_bits(blocks: np.ndarray, start: int) -> np.ndarray:
    """Reads the highest bits of the 32 five-bit numbers of a block, as 0 or 16."""
    return np.unpackbits(blocks[:, start : start + 4], axis=1, bitorder="little") << 4


def _q4_0(blocks: np.ndarray) -> np.ndarray:
    return _half(blocks, 0) * (_nibbles(blocks[:, 2:]).astype(np.float32) - 8)


def _q4_1(blocks: np.ndarray) -> np.ndarray:
    return _half(blocks, 0) * _nibbles(blocks[:, 4:]).astype(np.float32) + _half(blocks, 2)


def _q5_0(blocks: np.ndarray) -> np.ndarray:
    numbers = _nibbles(blocks[:, 6:]) | _fifth_bits(blocks, 2)
    return _half(blocks, 0) * (numbers.astype(np.float32) - 16)


def _q5_1(blocks: np.ndarray) -> np.ndarray:
    numbers = _nibbles(blocks[:, 8:]) | _fifth_bits(blocks, 4)
    return _half(blocks, 0) * numbers.astype(np.float32) + _half(blocks, 2)


def _q8_0(blocks: np.ndarray) -> np.ndarray:
    return _half(blocks, 0) * blocks[:, 2:].view(np.int8).astype(np.float32)


def _k_scales(packed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Unpacks the six-bit scales and minima of eight groups from twelve bytes `[M, 12]`."""
    first, second, mixed = packed[:, :4], packed[:, 4:8], packed[:, 8:]
    scales = np.concatenate([first & 63, (mixed & 15) | ((first >> 6) << 4)], axis=1)
    minima = np.concatenate([second & 63, (mixed >> 4) | ((second >> 6) << 4)], axis=1)
    return scales, minima  # [M, 8], [M, 8]


def _k_values(blocks: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Scales the numbers `[M, 8, 32]` of a block that begins with two floats and the scales."""
    scales, minima = _k_scales(blocks[:, 4:16])
    scale = (_half(blocks, 0) * scales)[:, :, None]  # [M, 8, 1]
    minimum = (_half(blocks, 2) * minima)[:, :, None]  # [M, 8, 1]
    return (scale * numbers.astype(np.float32) - minimum).reshape(len(blocks), 256)


def _q4_k(blocks: np.ndarray) -> np.ndarray:
    packed = blocks[:, 16:].reshape(-1, 4, 1, 32)
    numbers = np.concatenate([packed & 15, packed >> 4], axis=2)  # [M, 4, 2, 32]
    return _k_values(blocks, numbers.reshape(-1, 8, 32))


def _q5_k(blocks: np.ndarray) -> np.ndarray:
    packed = blocks[:, 48:].reshape(-1, 4, 1, 32)
    numbers = np.concatenate([packed & 15, packed >> 4], axis=2).reshape(-1, 8, 32)
    shifts = np.arange(8, dtype=np.uint8)[None, :, None]
    fifth = (blocks[:, None, 16:48] >> shifts) & 1  # [M, 8, 32]
    return _k_values(blocks, numbers | (fifth << 4))


def _q6_k(blocks: np.ndarray) -> np.ndarray:
    low = blocks[:, :128].reshape(-1, 2, 1, 64)
    low = np.concatenate([low & 15, low >> 4], axis=2).reshape(-1, 2, 4, 32)
    shifts = np.array([0, 2, 4, 6], np.uint8)[None, None, :, None]
    high = (blocks[:, 128:192].reshape(-1, 2, 1, 32) >> shifts) & 3  # [M, 2, 4, 32]
    numbers = (low | (high << 4)).reshape(-1, 16, 16).astype(np.float32) - 32
    scales = blocks[:, 192:208].view(np.int8).astype(np.float32)[:, :, None]  # [M, 16, 1]
    return (_half(blocks, 208)[:, :, None] * scales * numbers).reshape(len(blocks), 256)


QUANTISED = {
    2: Blocks(32, 18, _q4_0),
    3: Blocks(32, 20, _q4_1),
    6: Blocks(32, 22, _q5_0),
    7: Blocks(32, 24, _q5_1),
    8: Blocks(32, 34, _q8_0),
    12: Blocks(256, 144, _q4_k),
    13: Blocks(256, 176, _q5_k),
    14: Blocks(256, 210, _q6_k),
}
