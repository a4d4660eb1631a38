"""The layout of the package: an ordered list of floors, and no import circles."""

import ast
from pathlib import Path

import pytest

from tests.support.paths import PACKAGE

# A floor is one line: a folder and its modules, or modules of the package itself. Each imports
# only what stands on its own floor or above it. Every module of the package is listed once.
FLOORS = """
keras_classes version errors extras quiet heap
__init__ validation files
hub chat_template
config_fields config outputs
checkpoints: __init__ names
checkpoints/readers: __init__ base hdf5
checkpoints/readers: safetensors torch_pickle torch_bin h5 flax_msgpack tf1 keras_hub
checkpoints/readers: renamed linear_layout keras_hub_backbone
checkpoints/readers: byte_level_json nanogpt mingpt llm_c gguf_blocks gguf_metadata gguf
checkpoints/writers: __init__ base
checkpoints/writers: safetensors h5 keras_hub
checkpoints: registry
checkpoints: tokenizer_files single_file
checkpoints: detection loader lora_adapters
nn: __init__ shapes activations one_row sixteen_bits
nn: attention blockwise kv_cache append_kv int8 layers
nn: blocks shared_trace backbone losses chunked_loss lora quantization resize
tokenizers: __init__ json_values json_files chat_template_files unicode_classes
tokenizers: added_tokens segments added_token_split
tokenizers: pretokenize bpe sentencepiece arguments spec_checks code_point_map character_changes
tokenizers: template graph base vocabulary_folder rows batch_encoding files layer normal_form
tokenizers: character_bpe byte_level_bpe
tokenizers: text_rules sentencepiece_model sentencepiece_json sentencepiece_graph
tokenizers: sentencepiece_host sentencepiece_families wordpiece word_level registry
tokenizers: special_tokens encoding_methods sequence_methods decoding_methods padding_methods
tokenizers: chat_methods retraining gpt2 host
tokenizers: training collators
generation: __init__ buckets options option_values stop_lists written_text token_texts stopping
generation/constraints: __init__ work special_tokens expressions byte_nfa byte_dfa regex json_types
generation/constraints: schema_input json_grammar
generation/constraints: json_schema token_dfa masking compile
generation: params results
generation/logits: __init__ vocab_ops random threshold id_lists history base
generation/logits: temperature top_k top_p min_p typical_p epsilon_cutoff eta_cutoff
generation/logits: penalties ngrams bias forced length validity pipeline callables torch_callables
generation/speculative: __init__ base
generation/strategies: __init__ cache_rows
generation/speculative: prompt_lookup draft_model
generation/strategies: base sampling beam_state beam_step beam_search diverse_beam_search
generation/strategies: contrastive_search registry
generation: guidance option_table validation modes config from_config model_wrappers scoring
generation: token_inputs inputs forward_outputs output_classes transition_scores compiled
generation: traced generate
models: __init__ call_arguments call_inputs call_outputs batch_checks label_places memory
models: tf_dataset trainable editable
models: model_methods keras_export loading saving base
models: transformer causal_lm task_heads double_heads auto
text: __init__ generation prompts records checks pipeline streaming generator
pipelines: __init__ base
pipelines: feature_extraction question_answering text_classification text_generation
pipelines: token_classification registry
conversion: __init__ progress
conversion: verification
conversion: convert
evaluation: __init__ scoring perplexity cloze exported harness
inspect: tokens ranks
inspect/render: __init__ pages figures saving
inspect: attention surprise lens __init__
training: __init__ settings schedules recipes distribution output_files
training/data: sources schedule padding columns corpus language_modeling classification qa __init__
training: lora_checks lora plan build checkpoint callbacks display trainer
migrate: __init__ advice usage introspect check rewrite report
serving: __init__ chunks version_number chat_files
serving/client: records
litert: contract
litert: sampling settings texts engine
litert: request
litert: group
litert: generator __init__
serving/client: exceptions request_settings messages retrying streaming
serving/client: rest_transport grpc_transport client
serving/client: __init__
serving/export: __init__ allowed_ops batching_options stored_weights
serving/export/signatures: __init__ base
serving/export: graph_batching token_biases engine_state
serving/export/signatures: text_scoring generate score next_token embed inspect
serving/export/signatures: from_ids tokenize detokenize task_heads engine registry
serving/export: probe report warmup self_check version_directory export
serving/server: __init__ api_key cancellation serving_error request_size settings signature
serving/server: text_model first_runs servable browser_checks
serving/server: request_batcher tensor_protos
serving/server: graph_engine litert_engine
serving/server: saved_model litert_model
serving/server: registry version_manager
serving/server: connection grpc_limits
serving/server: metrics streaming engine_scheduler engine_answers
serving/server: server_core json_request json_response http
serving/server: openai_errors responses rest grpc_api completion_request chat_request
serving/server: completion_inputs answer_formats
serving/server: completion_choice token_logprobs completions tokenizer_api access app run
litert: graph readme litert_lm int4
litert: converter self_check probe publish
litert: export export_task export_litertlm
batch: __init__ settings models
batch/tasks: __init__ base
batch/tasks: generate text_scoring classify registry
batch: engine
batch/formats: __init__ base
batch/formats: json_lines text_lines delimited tfrecord parquet registry
batch: inputs output progress job
beam: __init__ sdk handler
beam: transforms pipeline
cli: __init__ console options
cli: streaming chat
cli: generate tokenize export convert evaluate train_tokenizer info serve train migrate
cli: inspect version batch models
cli: main __main__
"""
# The late imports that point down: `TextGenerator.export`, `export_litert`, `export_litertlm`.
DECLARED = {
    ("text/generator", "serving/export/export"),
    ("text/generator", "litert/export"),
    ("text/generator", "litert/export_litertlm"),
}


def read_floors(text: str) -> dict[str, int]:
    """From lines to the floor of each module, such as `"checkpoints/readers/h5"`."""
    floors: dict[str, int] = {}
    for number, line in enumerate(text.strip().splitlines()):
        folder, colon, names = line.rpartition(":")
        for name in names.split():
            module = f"{folder}/{name}" if colon else name
            assert module not in floors, f"{module} is listed twice"
            floors[module] = number
    return floors


def modules_in(package: Path) -> dict[str, Path]:
    """The modules of a folder, by their path without ending."""
    return {
        path.relative_to(package).with_suffix("").as_posix(): path
        for path in sorted(package.rglob("*.py"))
    }


def imports_of(path: Path, modules: dict[str, Path]) -> set[str]:
    """Our modules that a file imports, imports inside functions and lazy names included."""
    dotted = {
        "tfgpt2." + name.removesuffix("__init__").strip("/").replace("/", "."): name
        for name in modules
    }
    dotted["tfgpt2"] = "__init__"
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in dotted else node.module for name in names}
    return {dotted[name] for name in found if name in dotted}


def wrong_imports(imports: dict[str, set[str]], floors: dict[str, int]) -> list[str]:
    """Imports that point down."""
    return [
        f"{module} must not import {target}"
        for module, targets in imports.items()
        for target in sorted(targets)
        if (module, target) not in DECLARED and floors.get(target, 0) > floors.get(module, 0)
    ]


def circles(imports: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that import each other, directly or through others."""
    reach: dict[str, set[str]] = {}
    for module in imports:
        found, ends = set(), [module]
        while ends:
            current = ends.pop()
            new = {t for t in imports.get(current, ()) if (current, t) not in DECLARED} - found
            found |= new
            ends += new
        reach[module] = found
    groups = {
        tuple(sorted({m} | {t for t in reach[m] if m in reach.get(t, ())}))
        for m in imports
        if m in reach[m]
    }
    return sorted(map(list, groups))


MODULES = modules_in(PACKAGE)
IMPORTS = {name: imports_of(path, MODULES) for name, path in MODULES.items()}


def test_every_module_is_listed_and_every_listed_module_is_there():
    floors = read_floors(FLOORS)
    assert sorted(MODULES.keys() - floors.keys()) == [], "list them where they belong"
    assert sorted(floors.keys() - MODULES.keys()) == [], "these are gone"


def test_imports_point_up():
    assert wrong_imports(IMPORTS, read_floors(FLOORS)) == []


def test_there_are_no_circles():
    assert circles(IMPORTS) == []


def test_the_rules_can_fail(tmp_path):
    """An upward and a downward arrow, a late one, a circle and an unlisted module."""
    for name, text in {
        "high": "",
        "low": "def f():\n    from tfgpt2 import high\n",
        "wrong": "def f():\n    from tfgpt2.low import f\n",
        "one": "import tfgpt2.two\n",
        "two": "from tfgpt2 import one\n",
    }.items():
        (tmp_path / f"{name}.py").write_text(text)
    modules = modules_in(tmp_path)
    imports = {name: imports_of(path, modules) for name, path in modules.items()}
    floors = read_floors("high wrong\nlow\none two")
    assert wrong_imports(imports, floors) == ["wrong must not import low"]
    assert circles(imports) == [["one", "two"]]
    assert modules.keys() - read_floors("high\nlow").keys() == {"wrong", "one", "two"}


@pytest.mark.parametrize("module", MODULES)
def test_style(module):
    tree = ast.parse(MODULES[module].read_text())
    assert ast.get_docstring(tree), "every module says what it is"
    assert not [n for n in ast.walk(tree) if isinstance(n, ast.Assert)], "no bare assert"
    assert MODULES[module].stem not in ("utils", "util", "common", "helpers", "misc")
