"""transformers' `Auto` classes, so that a program changes one import; all are GPT-2 here."""

from __future__ import annotations

from tfgpt2.config import GPT2Config
from tfgpt2.models.causal_lm import TFGPT2LMHeadModel
from tfgpt2.models.task_heads import (
    TFGPT2ForQuestionAnswering,
    TFGPT2ForSequenceClassification,
    TFGPT2ForTokenClassification,
)
from tfgpt2.models.transformer import TFGPT2Model
from tfgpt2.tokenizers.host import GPT2TokenizerFast

AutoConfig = GPT2Config
AutoTokenizer = GPT2TokenizerFast
PreTrainedTokenizerFast = GPT2TokenizerFast  # for a tokenizer.json or tokenizer of one's own
TFAutoModel = TFGPT2Model
TFAutoModelForCausalLM = TFGPT2LMHeadModel
TFAutoModelForSequenceClassification = TFGPT2ForSequenceClassification
TFAutoModelForTokenClassification = TFGPT2ForTokenClassification
TFAutoModelForQuestionAnswering = TFGPT2ForQuestionAnswering
