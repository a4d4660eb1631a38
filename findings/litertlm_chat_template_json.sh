#!/bin/bash
# LiteRT-LM: a chat template that writes `message.content` writes JSON into the prompt.
#
# The guess: `{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}{% endfor %}`, which
# transformers and servers take, writes "user: one<end>" for a message that was sent as
# the string "one".
# What happens: the content always arrives as a list of parts, and the model reads
# `user: [{"type": "text", "text": "one"}]`; without a word, as every template renders. `eos_token`
# and `bos_token` are empty, also where the file has a start token and stop tokens.
# Version: litert-lm 0.18.0 (generic models). Source: LiteRT-LM,
# runtime/conversation/model_data_processor/generic_data_processor.cc.
# Exits with 1 if that has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet litert-lm==0.18.0 ai-edge-litert==2.3.0
cat > "$folder/program.py" <<'PYTHON'
import importlib.metadata
import json
import sys

import flatbuffers
import litert_lm
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from litert_lm_builder import LitertLmFileBuilder, TfLiteModelType
from litert_lm_builder.runtime.proto import llm_metadata_pb2

WORDS = ["<end>", "one", "two", "three"]  # each word is followed by the next one, the last by the end


def tensor(graph, name, shape, kind, buffer=0):
    one = schema.TensorT()
    one.name, one.shape, one.type, one.buffer = name.encode(), list(shape), kind, buffer
    graph.tensors.append(one)
    return len(graph.tensors) - 1


def signature(model, name, length):
    graph, entry = schema.SubGraphT(), schema.SignatureDefT()
    graph.tensors, graph.operators, cache = [], [], (1, 1, 16, 4)
    table = tensor(graph, "table", (4, 4), schema.TensorType.FLOAT32, 1)
    inputs = {"tokens": tensor(graph, "tokens", (1, length), schema.TensorType.INT32),
              "input_pos": tensor(graph, "input_pos", (length,), schema.TensorType.INT32)}
    outputs = {}
    for key in ("kv_cache_k_0", "kv_cache_v_0"):
        inputs[key] = tensor(graph, key, cache, schema.TensorType.FLOAT32)
        outputs[key] = tensor(graph, key + "_out", cache, schema.TensorType.FLOAT32)
        one = schema.OperatorT()
        one.opcodeIndex, one.inputs, one.outputs = 1, [inputs[key]], [outputs[key]]
        graph.operators.append(one)
    if name == "decode":
        outputs["logits"] = tensor(graph, "logits", (1, length, 4), schema.TensorType.FLOAT32)
        one = schema.OperatorT()
        one.opcodeIndex, one.inputs, one.outputs = 0, [table, inputs["tokens"]], [outputs["logits"]]
        one.builtinOptionsType, one.builtinOptions = schema.BuiltinOptions.GatherOptions, schema.GatherOptionsT()
        graph.operators.append(one)
    graph.inputs, graph.outputs = list(inputs.values()), list(outputs.values())
    entry.signatureKey, entry.subgraphIndex = name.encode(), len(model.subgraphs)
    for attribute, tensors in (("inputs", inputs), ("outputs", outputs)):
        maps = []
        for key, index in tensors.items():
            one = schema.TensorMapT()
            one.name, one.tensorIndex = key.encode(), index
            maps.append(one)
        setattr(entry, attribute, maps)
    model.subgraphs.append(graph)
    model.signatureDefs.append(entry)


def write(folder, metadata):
    model, table = schema.ModelT(), schema.BufferT()
    table.data = np.roll(np.eye(4, dtype=np.float32) * 9, 1, axis=1).tobytes()
    model.version, model.subgraphs, model.signatureDefs = 3, [], []
    model.buffers, model.operatorCodes = [schema.BufferT(), table], []
    for code in (schema.BuiltinOperator.GATHER, schema.BuiltinOperator.ABS):
        one = schema.OperatorCodeT()
        one.builtinCode = one.deprecatedBuiltinCode = code
        one.version = 1
        model.operatorCodes.append(one)
    signature(model, "prefill_4", 4)
    signature(model, "decode", 1)
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    open(f"{folder}/model.tflite", "wb").write(builder.Output())
    json.dump({"version": "1.0", "added_tokens": [], "pre_tokenizer": {"type": "Whitespace"},
               "model": {"type": "WordLevel", "unk_token": "<end>",
                         "vocab": {word: id for id, word in enumerate(WORDS)}}},
              open(f"{folder}/tokenizer.json", "w"))
    metadata.max_num_tokens = 16
    metadata.stop_tokens.add().token_ids.ids.append(0)
    metadata.llm_model_type.generic_model.SetInParent()
    open(f"{folder}/metadata.pb", "wb").write(metadata.SerializeToString())
    file = LitertLmFileBuilder()
    file.add_llm_metadata(f"{folder}/metadata.pb")
    file.add_tflite_model(f"{folder}/model.tflite", TfLiteModelType.PREFILL_DECODE)
    file.add_hf_tokenizer(f"{folder}/tokenizer.json")
    with open(f"{folder}/model.litertlm", "wb") as stream:
        file.build(stream)
    return f"{folder}/model.litertlm"

TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}{{ bos_token }}{% endfor %}"

print("litert-lm", importlib.metadata.version("litert-lm"))
metadata = llm_metadata_pb2.LlmMetadata(jinja_prompt_template=TEMPLATE)
metadata.start_token.token_ids.ids.append(3)
path = write(sys.argv[1], metadata)
engine = litert_lm.Engine(path, backend=litert_lm.Backend.CPU(), cache_dir=":nocache")
conversation = engine.create_conversation()
found = [
    conversation.render_message_to_string("one"),
    conversation.render_message_to_string({"role": "user", "content": "one"}),
]
conversation.close()
print(*found, sep="\n")
raise SystemExit(found != ['user: [{"type": "text", "text": "one"}]'] * 2)
PYTHON
HOME=$folder "$folder/venv/bin/python" "$folder/program.py" "$folder" 2>/dev/null
