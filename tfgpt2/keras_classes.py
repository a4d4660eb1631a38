"""The classes that Keras' own files name, found whichever of Keras and this package comes first.

`keras.saving.load_model` finds a class of another package only in its registry. A class enters it
when its module is imported, which takes TensorFlow, so `import tfgpt2` does not do that. Instead,
the registry gets a stand-in for each class as soon as Keras itself is imported; the class is
imported when Keras first uses the stand-in, and then takes its place.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

_PACKAGE = "tfgpt2"
# Every class with `@keras.saving.register_keras_serializable`, and its module.
CLASSES = {
    "ByteLevelBPETokenizer": "tokenizers.byte_level_bpe",
    "TFGPT2Tokenizer": "tokenizers.gpt2",
    "TFGPT2Model": "models.transformer",
    "TFGPT2LMHeadModel": "models.causal_lm",
    "TFGPT2DoubleHeadsModel": "models.double_heads",
    "TFGPT2ForSequenceClassification": "models.task_heads",
    "TFGPT2ForTokenClassification": "models.task_heads",
    "TFGPT2ForQuestionAnswering": "models.task_heads",
    "TextGenerator": "text.generator",
    "AdamW": "training.recipes",
    "WarmUp": "training.schedules",
}


def register() -> None:
    """Enters the stand-ins into Keras' registry, now or as soon as Keras is imported."""
    if "keras" in sys.modules:
        _enter_stand_ins()
    else:
        sys.meta_path.insert(0, _KerasFinder())


def _enter_stand_ins() -> None:
    registry = sys.modules["keras"].saving.get_custom_objects()
    for name, module in CLASSES.items():
        registry.setdefault(f"{_PACKAGE}>{name}", _StandIn(f"{_PACKAGE}.{module}", name))


class _StandIn:
    """Stands for a class that is imported when one of its attributes is used."""

    def __init__(self, module: str, name: str) -> None:
        self._module, self.__name__ = module, name

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("__"):  # of protocols, such as copying, which a class does not have
            raise AttributeError(attribute)
        return getattr(getattr(importlib.import_module(self._module), self.__name__), attribute)

    def __repr__(self) -> str:
        return f"<class {self._module}.{self.__name__}, not imported yet>"


class _KerasFinder:
    """Finds Keras as the other finders do, and enters the stand-ins after it is imported."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """See `importlib.abc.MetaPathFinder`."""
        if name != "keras":
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        found = (finder.find_spec(name, path, target) for finder in others)
        spec = next((spec for spec in found if spec is not None), None)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def execute_and_enter(module: Any) -> None:
            execute(module)
            _enter_stand_ins()
            if self in sys.meta_path:
                sys.meta_path.remove(self)

        spec.loader.exec_module = execute_and_enter
        return spec
