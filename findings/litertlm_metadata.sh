#!/bin/bash
# LiteRT-LM: metadata of a model file that is described, packed and opened, and then means something
# else, or nothing.
#
# 1. The guess: `sampler_params { type: GREEDY }`, one of the three types that `sampler_params.proto`
#    has, makes `litert-lm run` decode greedily.
#    What happens: every text fails with "UNIMPLEMENTED: Sampler type: 3 not implemented yet." (TOP_K
#    the same), and the command still exits with 0. Files that should be greedy say TOP_P with k = 1,
#    which is what a file without `sampler_params` gets. TOP_P without k, "all tokens" elsewhere,
#    fails, too.
#    Source: LiteRT-LM, runtime/components/sampler_factory.cc, `CreateCpuSampler`; the default is in
#    runtime/engine/engine_settings.cc, `MaybeUpdateAndValidate`.
# 2. The guess: `{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}{% endfor %}`, which
#    transformers and servers take, writes "user: one<end>" for a message that was sent as the string
#    "one".
#    What happens: the content always arrives as a list of parts, and the model reads
#    `user: [{"type": "text", "text": "one"}]`; without a word, as every template renders. `eos_token`
#    and `bos_token` are empty, also where the file has a start token and stop tokens.
#    Source: LiteRT-LM, runtime/conversation/model_data_processor/generic_data_processor.cc.
#
# Version: litert-lm 0.18.0 (generic models). Exits with 1 if one of them has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet litert-lm==0.18.0 ai-edge-litert==2.3.0
cat > "$folder/program.py" <<'PYTHON'
import importlib.metadata
import json
import os
import subprocess
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

def text_of(name, **sampler):
    folder = os.path.join(sys.argv[1], name)
    os.mkdir(folder)
    metadata = llm_metadata_pb2.LlmMetadata()
    for key, value in sampler.items():
        setattr(metadata.sampler_params, key, value)
    command = [os.path.join(os.path.dirname(sys.executable), "litert-lm")]
    run = ["run", write(folder, metadata), "--prompt", "one", "--no-template", "--cache", "no"]
    done = subprocess.run(command + run, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    lines = (done.stdout + done.stderr).splitlines()
    errors = [line for line in lines if "not implemented yet" in line or "k must be" in line]
    found = (errors or [done.stdout.strip()])[0].strip()
    print(f"{name}: exit {done.returncode}, {found}")
    return done.returncode, found


print("litert-lm", importlib.metadata.version("litert-lm"))
kinds = llm_metadata_pb2.LlmMetadata().sampler_params
rest = {"p": 1.0, "temperature": 1.0}
greedy = text_of("GREEDY", type=kinds.GREEDY)
top_k = text_of("TOP_K", type=kinds.TOP_K, k=1, **rest)
no_k = text_of("TOP_P-without-k", type=kinds.TOP_P, **rest)
good = text_of("TOP_P-with-k-1", type=kinds.TOP_P, k=1, **rest)
none = text_of("no-parameters")
refused = all(code == 0 and "not implemented yet" in text for code, text in (greedy, top_k))
sampled = refused and "k must be" in no_k[1] and good == none == (0, "two three")

TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}{{ bos_token }}{% endfor %}"
metadata = llm_metadata_pb2.LlmMetadata(jinja_prompt_template=TEMPLATE)
metadata.start_token.token_ids.ids.append(3)
path = write(sys.argv[1], metadata)
engine = litert_lm.Engine(path, backend=litert_lm.Backend.CPU(), cache_dir=":nocache")
conversation = engine.create_conversation()
rendered = [
    conversation.render_message_to_string("one"),
    conversation.render_message_to_string({"role": "user", "content": "one"}),
]
conversation.close()
print(*rendered, sep="\n")
as_json = rendered == ['user: [{"type": "text", "text": "one"}]'] * 2
raise SystemExit(not (sampled and as_json))
PYTHON
HOME=$folder "$folder/venv/bin/python" "$folder/program.py" "$folder" 2>/dev/null
