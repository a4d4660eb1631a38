"""Runs signatures of a `.tflite` file with NumPy and ai-edge-litert only.

A program, not a module. Its standard input is `{"model": path, "inputs": path, "outputs": path,
"runs": [[{"signature": name, "inputs": {name: key}}, ...], ...]}`: the keys are those of arrays in
an .npz file, and the calls of a run share one cache, which begins with zeros. The outputs of the
last call of run `i` are written as `i/name`.
"""

import json
import os
import sys

import numpy as np
from ai_edge_litert.compiled_model import CompiledModel
from ai_edge_litert.hardware_accelerator import HardwareAccelerator
from ai_edge_litert.options import CpuOptions, Options


def main() -> None:
    """Reads the job, runs it and writes the outputs."""
    job = json.load(sys.stdin)
    weights = os.path.join(os.path.dirname(job["outputs"]), "weights")  # shared by all signatures
    cpu = CpuOptions(num_threads=os.cpu_count() or 1, xnnpack_weight_cache_path=weights)
    options = Options(hardware_accelerators=HardwareAccelerator.CPU, cpu_options=cpu)
    model = CompiledModel.from_file(job["model"], options=options)
    values, found = np.load(job["inputs"]), {}
    for number, calls in enumerate(job["runs"]):
        cache = {}
        for call in calls:
            outputs = _run(
                model, call["signature"], {n: values[k] for n, k in call["inputs"].items()}, cache
            )
        found |= {f"{number}/{name}": value for name, value in outputs.items()}
    np.savez(job["outputs"], **found)


def _run(model: CompiledModel, name: str, inputs: dict, cache: dict) -> dict:
    own = {}
    for key, detail in model.get_input_tensor_details(name).items():
        if key.startswith("kv_cache"):
            if key not in cache:
                cache[key] = model.create_input_buffer_by_name(name, key)
                cache[key].write(np.zeros(detail["shape"], detail["dtype"]))
        else:
            own[key] = model.create_input_buffer_by_name(name, key)
            own[key].write(inputs[key])
    details = model.get_output_tensor_details(name)
    outputs = {
        key: model.create_output_buffer_by_name(name, key)
        for key in details
        if not key.startswith("kv_cache")
    }
    model.run_by_name(name, own | cache, outputs | cache)
    return {
        key: buffer.read(int(np.prod(details[key]["shape"])), details[key]["dtype"]).reshape(
            details[key]["shape"]
        )
        for key, buffer in outputs.items()
    }


if __name__ == "__main__":
    main()
