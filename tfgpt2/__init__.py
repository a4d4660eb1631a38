"""GPT-2 in TensorFlow and Keras 3: strings in, strings out, one SavedModel.

The names below are the public interface. Each is imported on first use, so that
`import tfgpt2` costs little beyond TensorFlow itself.
"""

from __future__ import annotations

import importlib
import os
import sys

from tfgpt2 import keras_classes
from tfgpt2.errors import explain
from tfgpt2.version import __version__

_PUBLIC = {
    # configuration and results
    "GPT2Config": "tfgpt2.config",
    "ModelOutput": "tfgpt2.outputs",
    # strings <-> ids
    "TFGPT2Tokenizer": "tfgpt2.tokenizers.gpt2",
    "GPT2Tokenizer": "tfgpt2.tokenizers.host",
    "GPT2TokenizerFast": "tfgpt2.tokenizers.host",
    "BatchEncoding": "tfgpt2.tokenizers.batch_encoding",
    "AddedToken": "tokenizers",
    # examples to batches
    "default_data_collator": "tfgpt2.tokenizers.collators",
    "DefaultDataCollator": "tfgpt2.tokenizers.collators",
    "DataCollatorWithPadding": "tfgpt2.tokenizers.collators",
    "DataCollatorForLanguageModeling": "tfgpt2.tokenizers.collators",
    "DataCollatorForTokenClassification": "tfgpt2.tokenizers.collators",
    # models
    "TFGPT2PreTrainedModel": "tfgpt2.models.base",
    "TFGPT2Model": "tfgpt2.models.transformer",
    "TFGPT2MainLayer": "tfgpt2.models.transformer",
    "TFGPT2LMHeadModel": "tfgpt2.models.causal_lm",
    "TFGPT2DoubleHeadsModel": "tfgpt2.models.double_heads",
    "TFGPT2ForSequenceClassification": "tfgpt2.models.task_heads",
    "TFGPT2ForTokenClassification": "tfgpt2.models.task_heads",
    "TFGPT2ForQuestionAnswering": "tfgpt2.models.task_heads",
    # transformers' automatic classes, which find just GPT-2 here
    "AutoConfig": "tfgpt2.models.auto",
    "AutoTokenizer": "tfgpt2.models.auto",
    "PreTrainedTokenizerFast": "tfgpt2.models.auto",
    "TFAutoModel": "tfgpt2.models.auto",
    "TFAutoModelForCausalLM": "tfgpt2.models.auto",
    "TFAutoModelForSequenceClassification": "tfgpt2.models.auto",
    "TFAutoModelForTokenClassification": "tfgpt2.models.auto",
    "TFAutoModelForQuestionAnswering": "tfgpt2.models.auto",
    # generation
    "GenerationConfig": "tfgpt2.generation.config",
    "GenerationMode": "tfgpt2.generation.modes",
    "TFGenerateOutput": "tfgpt2.generation.output_classes",
    "TFGreedySearchDecoderOnlyOutput": "tfgpt2.generation.output_classes",
    "TFSampleDecoderOnlyOutput": "tfgpt2.generation.output_classes",
    "TFBeamSearchDecoderOnlyOutput": "tfgpt2.generation.output_classes",
    "TFBeamSampleDecoderOnlyOutput": "tfgpt2.generation.output_classes",
    "TFContrastiveSearchDecoderOnlyOutput": "tfgpt2.generation.output_classes",
    "TextGenerator": "tfgpt2.text.generator",
    # logits processors, called on scores
    "TFLogitsProcessor": "tfgpt2.generation.logits.callables",
    "TFLogitsWarper": "tfgpt2.generation.logits.callables",
    "TFLogitsProcessorList": "tfgpt2.generation.logits.callables",
    "TFTemperatureLogitsWarper": "tfgpt2.generation.logits.callables",
    "TFTopKLogitsWarper": "tfgpt2.generation.logits.callables",
    "TFTopPLogitsWarper": "tfgpt2.generation.logits.callables",
    "TFMinLengthLogitsProcessor": "tfgpt2.generation.logits.callables",
    "TFRepetitionPenaltyLogitsProcessor": "tfgpt2.generation.logits.callables",
    "TFNoBadWordsLogitsProcessor": "tfgpt2.generation.logits.callables",
    "TFNoRepeatNGramLogitsProcessor": "tfgpt2.generation.logits.callables",
    "TFForcedBOSTokenLogitsProcessor": "tfgpt2.generation.logits.callables",
    "TFForcedEOSTokenLogitsProcessor": "tfgpt2.generation.logits.callables",
    "TFSuppressTokensLogitsProcessor": "tfgpt2.generation.logits.callables",
    "TFSuppressTokensAtBeginLogitsProcessor": "tfgpt2.generation.logits.callables",
    "TFForceTokensLogitsProcessor": "tfgpt2.generation.logits.callables",
    "LogitsProcessor": "tfgpt2.generation.logits.torch_callables",
    "LogitsProcessorList": "tfgpt2.generation.logits.torch_callables",
    "TemperatureLogitsWarper": "tfgpt2.generation.logits.torch_callables",
    "TopKLogitsWarper": "tfgpt2.generation.logits.torch_callables",
    "TopPLogitsWarper": "tfgpt2.generation.logits.torch_callables",
    "MinPLogitsWarper": "tfgpt2.generation.logits.torch_callables",
    "TypicalLogitsWarper": "tfgpt2.generation.logits.torch_callables",
    "EpsilonLogitsWarper": "tfgpt2.generation.logits.torch_callables",
    "EtaLogitsWarper": "tfgpt2.generation.logits.torch_callables",
    "MinLengthLogitsProcessor": "tfgpt2.generation.logits.torch_callables",
    "MinNewTokensLengthLogitsProcessor": "tfgpt2.generation.logits.torch_callables",
    "RepetitionPenaltyLogitsProcessor": "tfgpt2.generation.logits.torch_callables",
    "NoRepeatNGramLogitsProcessor": "tfgpt2.generation.logits.torch_callables",
    "NoBadWordsLogitsProcessor": "tfgpt2.generation.logits.torch_callables",
    "SequenceBiasLogitsProcessor": "tfgpt2.generation.logits.torch_callables",
    "SuppressTokensLogitsProcessor": "tfgpt2.generation.logits.torch_callables",
    "SuppressTokensAtBeginLogitsProcessor": "tfgpt2.generation.logits.torch_callables",
    "ForcedBOSTokenLogitsProcessor": "tfgpt2.generation.logits.torch_callables",
    "ForcedEOSTokenLogitsProcessor": "tfgpt2.generation.logits.torch_callables",
    "ExponentialDecayLengthPenalty": "tfgpt2.generation.logits.torch_callables",
    "EncoderRepetitionPenaltyLogitsProcessor": "tfgpt2.generation.logits.torch_callables",
    "EncoderNoRepeatNGramLogitsProcessor": "tfgpt2.generation.logits.torch_callables",
    # texts to results
    "pipeline": "tfgpt2.pipelines.registry",
    "Pipeline": "tfgpt2.pipelines.base",
    "TextGenerationPipeline": "tfgpt2.pipelines.text_generation",
    "TextClassificationPipeline": "tfgpt2.pipelines.text_classification",
    "TokenClassificationPipeline": "tfgpt2.pipelines.token_classification",
    "QuestionAnsweringPipeline": "tfgpt2.pipelines.question_answering",
    "FeatureExtractionPipeline": "tfgpt2.pipelines.feature_extraction",
    # training
    "create_optimizer": "tfgpt2.training.recipes",
    # checkpoints of other programs
    "convert": "tfgpt2.conversion.convert",
    "load_keras_hub": "tfgpt2.conversion.convert",
    # serving
    "export_task": "tfgpt2.serving.export.export",
}

__all__ = ["__version__", *_PUBLIC]


def _require_tensorflow_backend() -> None:
    """Chooses Keras' TensorFlow backend, or says why that is no longer possible."""
    if "keras" in sys.modules:
        backend = sys.modules["keras"].config.backend()
    else:
        backend = os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    if backend != "tensorflow":
        raise ImportError(
            explain(
                "tfgpt2 runs on Keras' TensorFlow backend only.",
                fix="Set KERAS_BACKEND=tensorflow before the first `import keras`.",
                backend=backend,
            )
        )


_require_tensorflow_backend()
# TensorFlow reads this when it is loaded: its C++ code then writes errors, and what it logs before
# its log is set up. "0" shows everything.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
keras_classes.register()


def __getattr__(name: str) -> object:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'tfgpt2' has no attribute {name!r}")
    value = getattr(importlib.import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
