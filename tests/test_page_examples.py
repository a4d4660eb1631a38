"""The programs that transformers 4's GPT-2 page shows, with one import line changed.

The checkpoints they name are directories here, of the same names, with random weights and the
bundled vocabulary. PyTorch-only heads have no TensorFlow program there; theirs is translated.
"""

import numpy as np
import pytest
import tensorflow as tf

import tfgpt2
from tfgpt2 import GPT2Config


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    root = tmp_path_factory.mktemp("hub")
    tokenizer = tfgpt2.TFGPT2Tokenizer.from_pretrained("shakespeare-tiny")
    shape = {"vocab_size": tokenizer.vocab_size, "n_positions": 64, "n_embd": 16, "n_layer": 2,
             "n_head": 2, "bos_token_id": 0, "eos_token_id": 0}  # fmt: skip
    for name, head, labels in (
        ("openai-community/gpt2", "LMHeadModel", {}),
        ("microsoft/DialogRPT-updown", "ForSequenceClassification", {"num_labels": 1}),
        ("brad1141/gpt2-finetuned-comp2", "ForTokenClassification", {"num_labels": 7}),
    ):
        config = GPT2Config(**shape, **labels)
        getattr(tfgpt2, f"TFGPT2{head}")(config).save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
    return root


@pytest.fixture(autouse=True)
def in_that_directory(checkpoints, monkeypatch):
    monkeypatch.chdir(checkpoints)


def run(program):
    names = {}
    exec(program.replace("from transformers import", "from tfgpt2 import"), names)
    return names


def test_model():
    names = run("""
from transformers import AutoTokenizer, TFGPT2Model
import tensorflow as tf
tokenizer = AutoTokenizer.from_pretrained("openai-community/gpt2")
model = TFGPT2Model.from_pretrained("openai-community/gpt2")
inputs = tokenizer("Hello, my dog is cute", return_tensors="tf")
outputs = model(inputs)
last_hidden_states = outputs.last_hidden_state
""")
    assert names["last_hidden_states"].shape == (1, names["inputs"]["input_ids"].shape[1], 16)


def test_language_model():
    names = run("""
from transformers import AutoTokenizer, TFGPT2LMHeadModel
import tensorflow as tf
tokenizer = AutoTokenizer.from_pretrained("openai-community/gpt2")
model = TFGPT2LMHeadModel.from_pretrained("openai-community/gpt2")
inputs = tokenizer("Hello, my dog is cute", return_tensors="tf")
outputs = model(inputs)
logits = outputs.logits
""")
    assert names["logits"].shape == (1, names["inputs"]["input_ids"].shape[1], 1024)


def test_generation():
    names = run("""
from transformers import TFAutoModelForCausalLM, AutoTokenizer
model = TFAutoModelForCausalLM.from_pretrained("openai-community/gpt2")
tokenizer = AutoTokenizer.from_pretrained("openai-community/gpt2")
prompt = "GPT2 is a model developed by OpenAI."
input_ids = tokenizer(prompt, return_tensors="tf").input_ids
gen_tokens = model.generate(
    input_ids,
    do_sample=True,
    temperature=0.9,
    max_length=60,
)
gen_text = tokenizer.batch_decode(gen_tokens)[0]
""")
    assert names["gen_text"].startswith(names["prompt"])
    assert names["gen_tokens"].shape[1] <= 60


@pytest.mark.filterwarnings("ignore:.*freshly initialised")
def test_double_heads():
    names = run("""
import tensorflow as tf
from transformers import AutoTokenizer, TFGPT2DoubleHeadsModel
tokenizer = AutoTokenizer.from_pretrained("openai-community/gpt2")
model = TFGPT2DoubleHeadsModel.from_pretrained("openai-community/gpt2")
# Add a [CLS] to the vocabulary (we should train it also!)
num_added_tokens = tokenizer.add_special_tokens({"cls_token": "[CLS]"})
embedding_layer = model.resize_token_embeddings(
    len(tokenizer)
)  # Update the model embeddings with the new vocabulary size
choices = ["Hello, my dog is cute [CLS]", "Hello, my cat is cute [CLS]"]
encoded_choices = [tokenizer.encode(s) for s in choices]
cls_token_location = [tokens.index(tokenizer.cls_token_id) for tokens in encoded_choices]
width = max(map(len, encoded_choices))  # with GPT-2's own vocabulary both have one length
encoded_choices = [tokens + [0] * (width - len(tokens)) for tokens in encoded_choices]
input_ids = tf.constant(encoded_choices)[None, :]  # Batch size: 1, number of choices: 2
mc_token_ids = tf.constant([cls_token_location])  # Batch size: 1
outputs = model(input_ids, mc_token_ids=mc_token_ids)
lm_prediction_scores, mc_prediction_scores = outputs[:2]
""")
    assert names["num_added_tokens"] == 1 and names["tokenizer"].cls_token_id == 1024
    assert names["lm_prediction_scores"].shape[-1] == 1025
    assert names["mc_prediction_scores"].shape == (1, 2)


@pytest.mark.long
def test_sequence_classification():
    names = run("""
from transformers import AutoTokenizer, TFGPT2ForSequenceClassification
import tensorflow as tf
tokenizer = AutoTokenizer.from_pretrained("microsoft/DialogRPT-updown")
model = TFGPT2ForSequenceClassification.from_pretrained("microsoft/DialogRPT-updown")
inputs = tokenizer("Hello, my dog is cute", return_tensors="tf")
logits = model(**inputs).logits
predicted_class_id = int(tf.math.argmax(logits, axis=-1)[0])
# To train a model on `num_labels` classes, you can pass `num_labels=num_labels`
num_labels = len(model.config.id2label)
model = TFGPT2ForSequenceClassification.from_pretrained(
    "microsoft/DialogRPT-updown", num_labels=num_labels)
labels = tf.constant(1)
loss = model(**inputs, labels=labels).loss
""")
    assert names["predicted_class_id"] == 0
    np.testing.assert_allclose(names["loss"], (names["logits"][0, 0] - 1) ** 2, rtol=1e-5)


def test_multi_label_classification():
    names = run("""
import tensorflow as tf
from transformers import AutoTokenizer, TFGPT2ForSequenceClassification
tokenizer = AutoTokenizer.from_pretrained("microsoft/DialogRPT-updown")
model = TFGPT2ForSequenceClassification.from_pretrained(
    "microsoft/DialogRPT-updown", problem_type="multi_label_classification")
inputs = tokenizer("Hello, my dog is cute", return_tensors="tf")
logits = model(**inputs).logits
labels = tf.ones_like(logits)
loss = model(**inputs, labels=labels).loss
""")
    np.testing.assert_allclose(names["loss"], tf.math.softplus(-names["logits"][0, 0]), rtol=1e-5)


def test_token_classification():
    names = run("""
from transformers import AutoTokenizer, TFGPT2ForTokenClassification
import tensorflow as tf
tokenizer = AutoTokenizer.from_pretrained("brad1141/gpt2-finetuned-comp2")
model = TFGPT2ForTokenClassification.from_pretrained("brad1141/gpt2-finetuned-comp2")
inputs = tokenizer(
    "HuggingFace is a company based in Paris and New York", add_special_tokens=False,
    return_tensors="tf"
)
logits = model(**inputs).logits
predicted_token_class_ids = tf.math.argmax(logits, axis=-1)
predicted_tokens_classes = [model.config.id2label[int(t)] for t in predicted_token_class_ids[0]]
labels = predicted_token_class_ids
loss = round(float(model(**inputs, labels=labels).loss), 2)
""")
    assert len(names["predicted_tokens_classes"]) == names["inputs"].input_ids.shape[1]
    assert 0 < names["loss"] < np.log(7)


@pytest.mark.filterwarnings("ignore:.*freshly initialised")
def test_question_answering():
    names = run("""
from transformers import AutoTokenizer, TFGPT2ForQuestionAnswering
import tensorflow as tf
tokenizer = AutoTokenizer.from_pretrained("openai-community/gpt2")
model = TFGPT2ForQuestionAnswering.from_pretrained("openai-community/gpt2")
question, text = "Who was Jim Henson?", "Jim Henson was a nice puppet"
inputs = tokenizer(question, text, return_tensors="tf")
outputs = model(**inputs)
answer_start_index = int(tf.math.argmax(outputs.start_logits, axis=-1)[0])
answer_end_index = int(tf.math.argmax(outputs.end_logits, axis=-1)[0])
predict_answer_tokens = inputs.input_ids[0, answer_start_index : answer_end_index + 1]
target_start_index = tf.constant([14])
target_end_index = tf.constant([15])
outputs = model(**inputs, start_positions=target_start_index, end_positions=target_end_index)
loss = outputs.loss
""")
    assert np.isfinite(names["loss"]) and names["loss"] > 0


def test_in_graph_tokenizer():
    names = run("""
from transformers import TFGPT2Tokenizer, TFGPT2LMHeadModel
import tensorflow as tf
tokenizer = TFGPT2Tokenizer.from_pretrained("openai-community/gpt2")
model = TFGPT2LMHeadModel.from_pretrained("openai-community/gpt2")
outputs = model(tokenizer(tf.constant(["Hello, my dog is cute"])))
""")
    assert names["outputs"].logits.shape[2] == 1024
