"""What XLA made of the decode loop, read in its own optimized program."""

import os
import re
import subprocess
import sys

import pytest

LAYERS = 2
PROGRAM = f"""
import numpy as np, tfgpt2
config = tfgpt2.GPT2Config(
    n_layer={LAYERS}, n_embd=24, n_head=2, vocab_size=61, n_positions=400
)
model = tfgpt2.TFGPT2LMHeadModel(config, dtype={{weights!r}})
model.generate(np.ones(({{rows}}, 40), int), max_new_tokens=300, do_sample=False, eos_token_id=None,
               cache_dtype={{cache_dtype!r}})
"""
COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) [^\n]*\{\n(.*?)^\}", re.MULTILINE | re.DOTALL)
DEFINITION = re.compile(r"^ *(?:ROOT )?%\S+ = (.+?) ([\w\-]+)\((.*)$", re.MULTILINE)


def optimized(folder, rows, cache_dtype=None, weights="float32"):
    """The loop's program as text, and its computations by name: whether the entry, and lines."""
    # A process of its own: XLA reads where to write its programs once.
    options = {"rows": rows, "cache_dtype": cache_dtype, "weights": weights}
    flags = f"--xla_dump_to={folder} --xla_dump_hlo_as_text"
    subprocess.run(
        [sys.executable, "-c", PROGRAM.format(**options)],
        check=True,
        env=os.environ | {"XLA_FLAGS": flags, "TF_CPP_MIN_LOG_LEVEL": "3"},
        timeout=300,
    )
    texts = [path.read_text() for path in folder.glob("*cpu_after_optimizations.txt")]
    text = max(texts, key=len)  # the loop; the others are single operations
    return text, {name: (entry, body) for entry, name, body in COMPUTATION.findall(text)}


@pytest.mark.long
def test_one_row_shares_each_product_among_cores(tmp_path):
    """Each kernel in eight parts; a product that forgot that it has one row is a single task."""
    _, computations = optimized(tmp_path, 1)
    loop = "\n".join(body for entry, body in computations.values() if not entry)
    products = [shape for shape, kind, _ in DEFINITION.findall(loop) if kind == "dot"]
    wide = [shape.split("{")[0] for shape in products]
    for width, each in ((72, 1), (24, 2), (96, 1)):  # c_attn; both c_proj; c_fc
        assert wide.count(f"f32[8,{width}]") == each * LAYERS, wide
        assert f"f32[{width}]" not in wide and f"f32[1,{width}]" not in wide


@pytest.mark.long
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_decode_loop_neither_copies_nor_converts_a_cache(tmp_path, dtype):
    """Of a 16-bit cache only blocks become float32, in the computation that cuts them out."""
    held = {"float32": "f32", "bfloat16": "u16", "float16": "f16"}[dtype]
    text, computations = optimized(tmp_path, 3, dtype)
    columns = max(int(n) for n in re.findall(rf"{held}\[3,2,(\d+),12\]", text))
    assert columns >= 340  # the buffer, and not a block of it
    cache, shape_of_cache = f"{held}[3,2,{columns},12]", f"[3,2,{columns},12]"
    # The entry lays the prompt's keys and values into the buffer once.
    before = next(body for entry, body in computations.values() if entry)
    once = set(re.findall(r"calls=%([\w.\-]+)", before))
    writes = 0
    for name, (entry, body) in computations.items():
        for shape, kind, rest in DEFINITION.findall(body):
            if (
                entry
                or name in once
                or shape_of_cache not in shape
                or kind in ("parameter", "get-tuple-element")
            ):
                continue
            if kind in ("while", "tuple", "conditional", "call"):
                continue  # hands buffers on
            assert cache in shape, f"{kind} makes a cache of another type: {shape}"
            if kind == "fusion":
                called = re.search(r"calls=%([\w.\-]+)", rest)[1]
                root = next(line for line in computations[called][1].split("\n") if "ROOT " in line)
                assert f"{cache}" in root and "dynamic-update-slice(" in root, root
                writes += 1
            else:
                assert kind == "dynamic-update-slice", f"{kind} makes a whole cache: {rest}"
    assert writes == 2 * LAYERS  # one column of the keys and one of the values, in each block
    if dtype != "float32":  # the conversion of a block is fused with its slice
        cuts = [
            body for _, body in computations.values()
            if f"{held}[3,2,128,12]" in body and "dynamic-slice(" in body
        ]  # fmt: skip
        assert len(cuts) >= 2 * LAYERS
        assert all("ROOT %" in body and "f32[" in body.split("ROOT ")[1] for body in cuts)


@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize("weights", ["bfloat16", "float16"])
def test_a_step_neither_turns_nor_widens_a_whole_matrix(tmp_path, weights, rows):
    """16-bit kernels are turned for one row, and widened for many, once per call.

    At 124M either takes longer than the rest of the step. XLA moves them out of one loop, and not
    out of a loop in a loop.
    """
    text, computations = optimized(tmp_path, rows, weights=weights)
    fused = set(re.findall(r"calls=%([\w.\-]+)", text))
    kernels = {(24, 72), (24, 24), (24, 96)}
    made = []
    for name, (entry, body) in computations.items():
        for shape, kind, _ in DEFINITION.findall(body):
            sizes = re.match(r"\w+\[(\d+),(\d+)\]", shape)
            is_kernel = sizes is not None and tuple(sorted(map(int, sizes.groups()))) in kernels
            if is_kernel and kind not in ("parameter", "get-tuple-element", "bitcast"):
                made.append((name, entry, kind, shape))
    once = [one for one in made if one[1]]
    assert len(once) >= 4 * LAYERS
    assert not [one for one in made if not one[1] and one[0] not in fused]
