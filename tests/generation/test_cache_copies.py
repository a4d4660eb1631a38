"""The compiled loop writes the cache in place: XLA's own optimized program holds no copy of it."""

import os
import re
import subprocess
import sys

LAYERS = 2
PROGRAM = f"""
import numpy as np, tfgpt2
config = tfgpt2.GPT2Config(
    n_layer={LAYERS}, n_embd=24, n_head=2, vocab_size=61, n_positions=400
)
model = tfgpt2.TFGPT2LMHeadModel(config)
model.generate(np.ones((3, 40), int), max_new_tokens=300, do_sample=False, eos_token_id=None)
"""
COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) [^\n]*\{\n(.*?)^\}", re.MULTILINE | re.DOTALL)
DEFINITION = re.compile(r"^ *(?:ROOT )?%\S+ = (.+?) ([\w\-]+)\((.*)$", re.MULTILINE)


def test_the_decode_loop_copies_no_cache(tmp_path):
    # A process of its own: XLA reads where to write its programs once.
    flags = f"--xla_dump_to={tmp_path} --xla_dump_hlo_as_text"
    subprocess.run(
        [sys.executable, "-c", PROGRAM],
        check=True,
        env=os.environ | {"XLA_FLAGS": flags, "TF_CPP_MIN_LOG_LEVEL": "3"},
        timeout=300,
    )
    texts = [path.read_text() for path in tmp_path.glob("*cpu_after_optimizations.txt")]
    text = max(texts, key=len)  # the loop; the others are single operations
    columns = max(int(n) for n in re.findall(r"f32\[3,2,(\d+),12\]", text))
    assert columns >= 340  # the buffer, and not a block of it
    cache = f"f32[3,2,{columns},12]"
    computations = {name: (entry, body) for entry, name, body in COMPUTATION.findall(text)}
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
