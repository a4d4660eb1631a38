"""The layout of the package: an ordered list of floors, and no import circles."""

import ast
from pathlib import Path

import pytest

from tests.support.paths import PACKAGE

# A floor is one line: a folder and its modules, or modules of the package itself. Each imports
# only what stands on its own floor or above it. Every module of the package is listed once.
FLOORS = """
__init__ version errors validation
hub
config_fields config outputs
checkpoints: __init__ names shards
checkpoints/readers: __init__ safetensors torch_pickle torch_bin h5 flax_msgpack tf1 keras_hub
checkpoints: tokenizer_files registry loader adapters
nn: __init__ shapes activations attention blockwise cache int8 layers blocks backbone
nn: losses chunked_loss lora quantization resize
tokenizers: __init__ unicode_classes pretokenize bpe sentencepiece spec files text_inputs batches
tokenizers: byte_level_bpe gpt2 host training
generation: __init__ buckets
generation/logits: __init__ vocab_ops sampling processors history
generation/constraints: __init__ byte_dfa byte_nfa regex json_values json_text json_schema token_dfa
generation/constraints: masking compile
generation: options known_options validation config stopping request params inputs
generation: model_wrappers scoring replay
generation/logits: pipeline base
generation/strategies: __init__ cache_rows sampling beam_state beam_step diverse_beam_search
generation/strategies: beam_search contrastive_search searches
generation/speculative: __init__ guessers
generation: compiled generate
models: __init__ call_arguments call_inputs storage base causal_lm task_heads double_heads auto
text: __init__ prompts records checks pipeline generator
conversion: __init__ keras_hub_models convert
inspect: tokens ranks
inspect/render: __init__ saving pages figures
inspect: attention surprise lens __init__
evaluation: __init__ scoring perplexity cloze exported harness
training: __init__ settings schedules recipes strategies
training/data: sources schedule columns corpus language_modeling classification qa __init__
training: lora plan build checkpoint callbacks display trainer
migrate: __init__ advice usage introspect check rewrite report
serving: __init__
serving/client: records failures settings messages retrying streaming rest grpc_transport client
serving/client: __init__
serving/export: __init__ allowed_ops batching storage
serving/export/signatures: __init__ readings task_heads registry
serving/export: probe report warmup publish export
serving/server: __init__ status settings saved_model metrics models batching service streaming
serving/server: json_tensors token_logprobs completion_request grpc_api rest completions app run
cli: __init__ quiet inspect migrate serve train main __main__
"""
# The one late import that points down: `TextGenerator.export`.
DECLARED = {
    ("text/generator", "serving/export/export"),
    # To go while the rooms are rebuilt:
    ("generation/generate", "text/records"),
    ("generation/config", "generation/validation"),
    *((f"inspect/render/{a}", f"inspect/{b}") for a in ("figures", "pages")
      for b in ("attention", "lens", "surprise")),
}  # fmt: skip


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
