"""Training data: `tf.data` pipelines from texts to batches, with the tokenizer in the graph."""

from tfgpt2.models.batch_checks import check_batches
from tfgpt2.training.data.classification import classification_dataset, tagging_dataset
from tfgpt2.training.data.corpus import Corpus
from tfgpt2.training.data.corpus import tokenize as tokenize_corpus
from tfgpt2.training.data.language_modeling import completion_dataset, lm_dataset
from tfgpt2.training.data.qa import multiple_choice_dataset, qa_dataset

__all__ = [
    "Corpus",
    "check_batches",
    "classification_dataset",
    "completion_dataset",
    "lm_dataset",
    "multiple_choice_dataset",
    "qa_dataset",
    "tagging_dataset",
    "tokenize_corpus",
]
