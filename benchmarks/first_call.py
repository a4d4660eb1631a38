"""Time to the first token: imports, loading, tracing and XLA compilation; and memory after it.

    python benchmarks/first_call.py [--rounds 3] [--models shakespeare-tiny 124M]
    python benchmarks/first_call.py --models 124M 124M-int8 gpt2-xl --before FOLDER

Times are medians over new processes. Each round measures three cases: no persistent compilation
cache, an empty one, and one filled by a previous process. The cache is TensorFlow's
(`TF_XLA_FLAGS=--tf_xla_persistent_cache_directory=DIR`). The tokens must be the same in all cases.
`--before` is a clone of the repository at an earlier revision, which is measured in turn.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

IMPORTS = {
    "tensorflow": "import tensorflow",
    "and tfgpt2": "import tensorflow, tfgpt2",
    "and TFGPT2LMHeadModel": "import tensorflow, tfgpt2; tfgpt2.TFGPT2LMHeadModel",
    "and TextGenerator": "import tensorflow, tfgpt2; tfgpt2.TextGenerator",
    "tensorflow, keras_hub": "import tensorflow, keras_hub",
}
GENERATE = """
import json, sys, time
import numpy as np, psutil, tfgpt2
xl = dict(n_layer=48, n_embd=1600, n_head=25)
shapes = {"124M": {}, "124M-int8": {}, "gpt2-xl": xl}
if sys.argv[1] in shapes:
    import keras
    keras.utils.set_random_seed(0)
    model = tfgpt2.TFGPT2LMHeadModel(tfgpt2.GPT2Config(**shapes[sys.argv[1]]))
    if sys.argv[1] == "124M-int8":
        model.quantize("int8")
else:
    model = tfgpt2.TFGPT2LMHeadModel.from_pretrained(sys.argv[1])
times, ids = [], np.arange(1, 33)[None]
for _ in range(2):
    start = time.perf_counter()
    out = model.generate(ids, max_new_tokens=64, do_sample=False, eos_token_id=None)
    tokens = out.numpy().tolist()
    times.append(time.perf_counter() - start)
resident = psutil.Process().memory_info().rss / 1e6
found = {"first": times[0], "second": times[1], "MB": resident, "tokens": tokens}
print(json.dumps(found))
"""


def seconds_to(code: str) -> float:
    """Time of a statement in a new process, in seconds."""
    timed = f"import time; s = time.perf_counter(); {code}; print(time.perf_counter() - s)"
    return float(run(timed).split()[-1])


def run(code: str, *arguments: str, **variables: str) -> str:
    """Run Python in a new process and return its standard output."""
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": "tensorflow"}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=os.environ | quiet | variables,
        capture_output=True,
        text=True,
        check=True,
        cwd=tempfile.gettempdir(),  # Python prefers a package in the current folder
    )
    return done.stdout


def main() -> None:
    """Measure, and print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--models", nargs="+", default=["shakespeare-tiny", "124M"])
    parser.add_argument("--before", type=Path, help="a clone at an earlier revision")
    options = parser.parse_args()

    imports: dict[str, list[float]] = {name: [] for name in IMPORTS}
    for _ in range(options.rounds):
        for name, code in IMPORTS.items():
            imports[name].append(seconds_to(code))
    base = statistics.median(imports["tensorflow"])
    print("import, seconds")
    for name, times in imports.items():
        middle = statistics.median(times)
        print(f"  {name:28s} {middle:6.2f}   {middle - base:+.2f}")

    for model in options.models:
        found: dict[str, list[dict]] = {}
        for _ in range(options.rounds):
            with tempfile.TemporaryDirectory() as folder:
                flags = {"TF_XLA_FLAGS": f"--tf_xla_persistent_cache_directory={folder}"}
                cases = {"none": {}, "empty": flags, "filled": flags}
                if options.before:
                    cases = {"none": {}, "before": {"PYTHONPATH": str(options.before.resolve())}}
                for case, variables in cases.items():
                    answer = json.loads(run(GENERATE, model, **variables).splitlines()[-1])
                    found.setdefault(case, []).append(answer)
                size = sum(path.stat().st_size for path in Path(folder).iterdir())
        tokens = [answer["tokens"] for answers in found.values() for answer in answers]
        assert all(one == tokens[0] for one in tokens), "the cache changed the tokens"
        print(f"\n{model}: first call of 64 tokens, seconds, by state of the compilation cache")
        for case, answers in found.items():
            first, second, resident = (
                statistics.median(answer[key] for answer in answers)
                for key in ("first", "second", "MB")
            )
            print(f"  {case:8s} {first:6.2f}   (second call {second:.2f}; {resident:,.0f} MB)")
        if not options.before:
            print(f"  size of the filled cache: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
