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
model = tfgpt2.TFGPT2LMHeadModel(config)
model.generate(np.ones(({{rows}}, 40), int), max_new_tokens=300, do_sample=False, eos_token_id=None)
"""
COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) [^\n]*\{\n(.*?)^\}", re.MULTILINE | re.DOTALL)
DEFINITION = re.compile(r"^ *(?:ROOT )?%\S+ = (.+?) ([\w\-]+)\((.*)$", re.MULTILINE)


def optimized(folder, rows):
    """The loop's program as text, and its computations by name: whether the entry, and lines."""
    # A process of its own: XLA reads where to write its programs once.
    flags = f"--xla_dump_to={folder} --xla_dump_hlo_as_text"
    subprocess.run(
        [sys.executable, "-c", PROGRAM.format(rows=rows)],
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
def test_the_decode_loop_copies_no_cache(tmp_path):
    text, computations = optimized(tmp_path, 3)
    columns = max(int(n) for n in re.findall(r"f32\[3,2,(\d+),12\]", text))
    assert columns >= 340  # the buffer, and not a block of it
    cache = f"f32[3,2,{columns},12]"
    writes = 0
    for entry, body in computations.values():
        for shape, kind, rest in DEFINITION.findall(body):
            # The entry lays the prompt's keys and values into the buffer once.
            if entry or cache not in shape or kind in ("parameter", "get-tuple-element", "pad"):
                continue
            if kind in ("while", "tuple", "conditional", "call"):
                continue  # hands buffers on
            if kind == "fusion":
                called = re.search(r"calls=%([\w.\-]+)", rest)[1]
                root = next(line for line in computations[called][1].split("\n") if "ROOT " in line)
                assert f"{cache}" in root and "dynamic-update-slice(" in root, root
                writes += 1
            else:
                assert kind == "dynamic-update-slice", f"{kind} makes a whole cache: {rest}"
    assert writes == 2 * LAYERS  # one column of the keys and one of the values, in each block
