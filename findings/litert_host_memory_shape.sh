#!/bin/bash
# LiteRT: a NumPy array that is bound without a copy loses its shape, and the model refuses it.
#
# The guess: `TensorBuffer.create_from_host_memory(array)` of a float32 array with exactly the shape
# of a model's input is a buffer for that input, like one of `create_input_buffer_by_name` after
# `write(array)`. (Its documentation shows an array of two axes.)
# What happens: the buffer has one axis, whatever the array has. An input with one axis takes it; any
# other one fails with "Cannot auto-resize tensor x: no dims_signature exists", which speaks of a
# resize that nobody asked for. `write`, which copies, works.
# Version: ai-edge-litert 2.3.0. Source: ai_edge_litert/tensor_buffer.py, `create_from_host_memory`
# passes `array.size` and no shape to the C++ side; litert/runtime/compiled_model.cc:1696.
# Exits with 1 if that has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet ai-edge-litert==2.3.0
cat > "$folder/program.py" <<'PYTHON'
import importlib.metadata

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.compiled_model import CompiledModel
from ai_edge_litert.tensor_buffer import TensorBuffer


def negation(shape):
    """A model with one operation, y = -x."""
    model, graph = schema.ModelT(), schema.SubGraphT()
    model.version, model.buffers, model.subgraphs = 3, [schema.BufferT()], [graph]
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.NEG
    code.version, model.operatorCodes = 1, [code]
    graph.tensors, graph.inputs, graph.outputs = [], [0], [1]
    signature = schema.SignatureDefT()
    signature.signatureKey, signature.subgraphIndex = b"run", 0
    for index, name in enumerate("xy"):
        tensor, entry = schema.TensorT(), schema.TensorMapT()
        tensor.shape, tensor.type = list(shape), schema.TensorType.FLOAT32
        tensor.buffer, tensor.name = 0, name.encode()
        graph.tensors.append(tensor)
        entry.name, entry.tensorIndex = name.encode(), index
        setattr(signature, "outputs" if index else "inputs", [entry])
    operator = schema.OperatorT()
    operator.opcodeIndex, operator.inputs, operator.outputs = 0, [0], [1]
    graph.operators, model.signatureDefs = [operator], [signature]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def run(shape, make_buffer):
    model = CompiledModel.from_buffer(negation(shape))
    result = model.create_output_buffer_by_name("run", "y")
    try:
        model.run_by_name("run", {"x": make_buffer(model, np.ones(shape, np.float32))}, {"y": result})
    except RuntimeError as error:
        return str(error).strip().splitlines()[-1]
    return result.read(int(np.prod(shape)), np.float32).tolist()


def bound(model, array):
    return TensorBuffer.create_from_host_memory(array)


def written(model, array):
    buffer = model.create_input_buffer_by_name("run", "x")
    buffer.write(array)
    return buffer


print("ai-edge-litert", importlib.metadata.version("ai-edge-litert"))
found = {}
for shape in ((6,), (2, 3)):
    for make in (bound, written):
        found[len(shape), make.__name__] = run(shape, make)
        print(shape, make.__name__, found[len(shape), make.__name__])
one = [-1.0] * 6
same = found[1, "bound"] == found[1, "written"] == found[2, "written"] == one
raise SystemExit(not (same and "Cannot auto-resize tensor x" in str(found[2, "bound"])))
PYTHON
"$folder/venv/bin/python" "$folder/program.py"
