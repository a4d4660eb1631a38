"""The import arrows of the design, and other rules that a parser can check."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "tfgpt2"
FILES = sorted(PACKAGE.rglob("*.py"))


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in FILES}


def imports(path: Path) -> set[str]:
    """Our modules that a file imports, late imports inside functions and lazy names included."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else node.module for name in names}
    return {name for name in found if name.split(".")[0] == "tfgpt2"}


IMPORTS = {name: imports(path) for name, path in MODULES.items()}

# What a module may import of ours; a name that ends in "." stands for everything under it.
# Errors and the version are open to all. Modules that are not listed sit on top.
ALLOWED = {
    "tfgpt2.errors": (),
    "tfgpt2.version": (),
    "tfgpt2.outputs": (),
    # The late import is `GPT2Config.from_pretrained` looking its file up.
    "tfgpt2.config": ("tfgpt2.checkpoints.hub", "tfgpt2.config_fields"),
    "tfgpt2.config_fields": (),
    # Inside `modeling`, see LEVELS, too.
    "tfgpt2.modeling.pretrained": (
        "tfgpt2.config", "tfgpt2.outputs", "tfgpt2.modeling.",
    ),
    "tfgpt2.modeling.storage": ("tfgpt2.config", "tfgpt2.modeling.", "tfgpt2.checkpoints."),
    "tfgpt2.modeling.heads": (
        "tfgpt2.config", "tfgpt2.outputs", "tfgpt2.modeling.", "tfgpt2.generation.",
    ),
    "tfgpt2.modeling.task_heads": ("tfgpt2.config", "tfgpt2.outputs", "tfgpt2.modeling."),
    "tfgpt2.modeling.double_heads": ("tfgpt2.config", "tfgpt2.outputs", "tfgpt2.modeling."),
    "tfgpt2.modeling.attention": ("tfgpt2.modeling.",),
    "tfgpt2.modeling.activations": ("tfgpt2.modeling.",),
    "tfgpt2.modeling.cache": ("tfgpt2.modeling.",),
    "tfgpt2.modeling.losses": ("tfgpt2.modeling.",),
    "tfgpt2.modeling.": (
        "tfgpt2.config", "tfgpt2.outputs", "tfgpt2.modeling.", "tfgpt2.checkpoints.",
    ),
    "tfgpt2.tokenizer.pretokenize": ("tfgpt2.tokenizer.",),
    "tfgpt2.tokenizer.bpe": ("tfgpt2.tokenizer.",),
    "tfgpt2.tokenizer.": (
        "tfgpt2.tokenizer.", "tfgpt2.checkpoints.hub", "tfgpt2.checkpoints.companions",
    ),
    "tfgpt2.checkpoints.hub": (),
    "tfgpt2.checkpoints.names": (),
    "tfgpt2.checkpoints.": ("tfgpt2.checkpoints.", "tfgpt2.config"),
    "tfgpt2.generation.sampling": ("tfgpt2.generation.",),
    "tfgpt2.generation.processors": ("tfgpt2.generation.",),
    "tfgpt2.generation.stopping": ("tfgpt2.generation.",),
    "tfgpt2.generation.loop": ("tfgpt2.generation.",),
    "tfgpt2.generation.byte_automaton": (),
    "tfgpt2.generation.byte_nodes": ("tfgpt2.generation.byte_automaton",),
    "tfgpt2.generation.token_table": ("tfgpt2.generation.byte_automaton",),
    "tfgpt2.generation.automaton": (
        "tfgpt2.generation.token_table", "tfgpt2.generation.sampling",
    ),
    "tfgpt2.generation.json_values": (),
    # Knows nothing of models: it must run where TensorFlow is not.
    "tfgpt2.serving.client.": ("tfgpt2.serving.client.",),
    # The server runs SavedModels; it must not know the model.
    "tfgpt2.serving.server.": ("tfgpt2.serving.server.", "tfgpt2.serving.client.streaming"),
    # What a text generator asks of a model is in `generation`, too, and knows its cache's rules.
    "tfgpt2.generation.": (
        "tfgpt2.generation.", "tfgpt2.modeling.cache", "tfgpt2.outputs", "tfgpt2.checkpoints.hub",
        "tfgpt2.tokenizer.",
    ),
}  # fmt: skip
OPEN = ("tfgpt2.errors", "tfgpt2.version")
# Arrows inside `modeling` point down, through modules that are not named too.
LEVELS = {
    "attention": 0, "cache": 0, "layers": 1, "blocks": 2, "backbone": 3, "pretrained": 4,
    "heads": 5, "task_heads": 6, "double_heads": 6,
}  # fmt: skip


def rule(module: str) -> tuple[str, ...] | None:
    if module in ALLOWED:
        return ALLOWED[module]
    return next((ALLOWED[n] for n in ALLOWED if n.endswith(".") and module.startswith(n)), None)


def permitted(target: str, allowed: tuple[str, ...]) -> bool:
    return any(target.startswith(a) if a.endswith(".") else target == a for a in (*allowed, *OPEN))


@pytest.mark.parametrize("module", MODULES)
def test_arrows(module):
    allowed = rule(module)
    if allowed is not None and not MODULES[module].name == "__init__.py":
        wrong = {target for target in IMPORTS[module] if not permitted(target, allowed)}
        assert not wrong, f"{module} must not import {sorted(wrong)}"


@pytest.mark.parametrize("module", LEVELS)
def test_levels_of_modeling(module):
    name = f"tfgpt2.modeling.{module}"
    above = {f"tfgpt2.modeling.{other}" for other in LEVELS if LEVELS[other] >= LEVELS[module]}
    wrong = reachable(name) & above - {name}
    assert not wrong, f"{name} must not import {sorted(wrong)}, by itself or through others"


def reachable(module):
    """All modules of `modeling` that a module imports, directly or through others there."""
    found, open_ends = set(), [module]
    while open_ends:
        new = {n for n in IMPORTS.get(open_ends.pop(), ()) if ".modeling." in n} - found
        found |= new
        open_ends += new
    return found


def test_nothing_imports_the_command_line():
    users = {name for name, targets in IMPORTS.items() if "tfgpt2.cli" in targets}
    assert users <= {"tfgpt2.__main__", "tfgpt2.cli"}


def test_the_rules_name_real_modules():
    named = {name for name in ALLOWED if not name.endswith(".")}
    assert named <= MODULES.keys()


@pytest.mark.parametrize("module", MODULES)
def test_style(module):
    tree = ast.parse(MODULES[module].read_text())
    assert ast.get_docstring(tree), "every module says what it is"
    assert not [n for n in ast.walk(tree) if isinstance(n, ast.Assert)], "no bare assert"
    assert MODULES[module].stem not in ("utils", "util", "common", "helpers", "misc")


def test_this_file_sees_late_imports(tmp_path):
    sample = tmp_path / "sample.py"
    sample.write_text("def f():\n    from tfgpt2.modeling import heads\n    import tfgpt2.cli\n")
    assert imports(sample) == {"tfgpt2.modeling.heads", "tfgpt2.cli"}
