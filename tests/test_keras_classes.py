"""`.keras` files load in a fresh process, whichever of Keras and this package comes first."""

import ast
import importlib.util
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfgpt2
from tests.support.paths import PACKAGE
from tfgpt2 import keras_classes
from tfgpt2.training import lora, recipes, schedules

IDS = np.array([[1, 2, 3], [4, 5, 0]])
TEXTS = ["a dog", "q"]
CONFIG = {
    "vocab_size": 27, "n_positions": 16, "n_embd": 8, "n_layer": 1, "n_head": 2,
    "pad_token_id": 0, "eos_token_id": None, "bos_token_id": None,
}  # fmt: skip
HEADS = ("Model", "DoubleHeadsModel", "ForSequenceClassification", "ForTokenClassification",
         "ForQuestionAnswering")  # fmt: skip
ORDERS = {
    "ours first": "import tfgpt2\nimport keras",
    "keras first": "import keras\nimport tfgpt2",
    "a model first": "from tfgpt2 import TFGPT2LMHeadModel\nimport tfgpt2.training.lora, keras",
}
PROGRAM = """
import pathlib, sys
import numpy as np
folder = pathlib.Path(sys.argv[1])
expected = np.load(folder / "expected.npz")
for name in expected:
    model = keras.saving.load_model(folder / f"{name}.keras")
    takes_text = name.startswith("text")
    given = np.load(folder / ("texts.npy" if takes_text else "ids.npy"))
    if takes_text:
        given = keras.ops.convert_to_tensor(given, dtype="string")
    found = model(given[None] if name == "DoubleHeadsModel" else given)
    found = list(found.values())[0] if isinstance(found, dict) else found
    if expected[name].dtype.kind == "S":
        assert found.numpy().tolist() == expected[name].tolist(), name
    else:
        np.testing.assert_allclose(found, expected[name], atol=1e-5, err_msg=name)
    print(name)
"""


def make_tokenizer(kind=None):
    letters = [chr(97 + i) for i in range(26)] + ["\u0120"]
    return (kind or tfgpt2.TFGPT2Tokenizer)({token: i for i, token in enumerate(letters)}, [])


def make_few_models():
    """A language model, and one that takes texts, by the names of their files."""
    lm, tokenizer = tfgpt2.TFGPT2LMHeadModel(tfgpt2.GPT2Config(**CONFIG)), make_tokenizer()
    text = keras.Input((), dtype="string")
    return {"lm": lm, "text_functional": keras.Model(text, lm(tokenizer(text))["logits"])}


def make_all_models():
    """A model of each kind that is saved."""
    config, few = tfgpt2.GPT2Config(**CONFIG), make_few_models()
    models = {name: getattr(tfgpt2, f"TFGPT2{name}")(config) for name in HEADS}
    lm, tokenizer = few["lm"], make_tokenizer()
    models["compiled"] = compiled = tfgpt2.TFGPT2LMHeadModel(config)
    compiled.compile(recipes.AdamW(schedules.WarmUp(1e-3, 2)))
    models["lora"] = adapted = tfgpt2.TFGPT2LMHeadModel(config)
    lora.enable_lora(adapted, 2)
    models["text_generator"] = tfgpt2.TextGenerator(
        lm, tokenizer, tfgpt2.GenerationConfig(max_new_tokens=2), jit_compile=False
    )
    sequential = keras.Sequential([tokenizer, tfgpt2.TFGPT2LMHeadModel(config)])
    return few | models | {"text_sequential": sequential}


def write_files(folder, models):
    """Writes a file of each model, the inputs, and what each model answers."""
    expected = {}
    np.save(folder / "ids.npy", IDS)
    np.save(folder / "texts.npy", np.array(TEXTS))
    for name, model in models.items():
        given = tf.constant(TEXTS) if name.startswith("text") else IDS
        found = model(given[None] if name == "DoubleHeadsModel" else given)
        found = next(iter(found.values())) if isinstance(found, dict) else found
        expected[name] = np.asarray(found).astype("S") if found.dtype == "string" else found
        model.save(folder / f"{name}.keras")
    np.savez(folder / "expected.npz", **expected)


def check_in_another_process(order, folder):
    done = subprocess.run(
        [sys.executable, "-c", f"{ORDERS[order]}\n{PROGRAM}", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert set(done.stdout.split()) == {path.stem for path in folder.glob("*.keras")}


@pytest.mark.long
def test_files_load_where_keras_is_imported_later(tmp_path):
    write_files(tmp_path, make_few_models())
    check_in_another_process("ours first", tmp_path)


@pytest.fixture(scope="module")
def every_kind(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    write_files(folder, make_all_models())
    return folder


@pytest.mark.long
@pytest.mark.parametrize("order", ORDERS)
def test_every_kind_loads_in_every_order(order, every_kind):
    check_in_another_process(order, every_kind)


def test_every_registered_class_is_listed():
    found = {}
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef) and "register_keras_serializable" in "".join(
                map(ast.unparse, node.decorator_list)
            ):
                module = path.relative_to(PACKAGE).with_suffix("").as_posix().replace("/", ".")
                found[node.name] = module
    assert found == keras_classes.CLASSES


def test_a_stand_in_is_the_class_once_it_is_used():
    stand_in = keras_classes._StandIn("tfgpt2.training.schedules", "WarmUp")
    assert stand_in.from_config == schedules.WarmUp.from_config
    assert "not imported yet" in repr(stand_in) and not hasattr(stand_in, "__deepcopy__")
    assert keras.saving.get_registered_object("tfgpt2>WarmUp") is schedules.WarmUp


def test_looking_for_keras_does_not_import_it(monkeypatch):
    """Other libraries ask whether Keras is there; the stand-ins wait until it is imported."""
    entered, finder = [], keras_classes._KerasFinder()
    monkeypatch.setattr(keras_classes, "_enter_stand_ins", lambda: entered.append(True))
    monkeypatch.setattr(sys, "meta_path", [finder, *sys.meta_path])
    assert finder.find_spec("numpy") is None
    spec = finder.find_spec("keras")
    assert spec.name == "keras" and not entered and finder in sys.meta_path
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setattr(type(spec.loader), "exec_module", lambda self, module: None)
    spec = finder.find_spec("keras")
    spec.loader.exec_module(module)
    assert entered and finder not in sys.meta_path


def test_the_import_stays_light():
    code = (
        "import sys, tfgpt2; print(sorted({'tensorflow', 'keras', 'numpy'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
