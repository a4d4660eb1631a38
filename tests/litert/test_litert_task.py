"""Models with task heads: the self-check compares the file with the model."""

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

import tfgpt2
from tests.support import toy_text
from tfgpt2.litert import export_litert_task

KINDS = {
    "classify": tfgpt2.TFGPT2ForSequenceClassification,
    "tag": tfgpt2.TFGPT2ForTokenClassification,
    "answer": tfgpt2.TFGPT2ForQuestionAnswering,
}


def make(name):
    tokens = toy_text.tokenizer()
    config = tfgpt2.GPT2Config(
        n_layer=1, n_embd=16, n_head=2, n_positions=24, vocab_size=300, num_labels=3, pad_token_id=0
    )
    model = KINDS[name](config)
    random = np.random.default_rng(0)
    for weight in model.weights:
        weight.assign(weight + 0.3 * random.standard_normal(weight.shape))
    return model, tokens


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.long] * (name != "classify")) for name in KINDS]
)
def test_the_file_computes_what_the_model_does(tmp_path, name):
    model, tokens = make(name)
    report = export_litert_task(model, tokens, tmp_path / "x", batch_size=2, length=12)
    assert report.signatures == (name,) and report.difference < 1e-4
    # The older interface of the runtime runs it, too.
    signature = Interpreter(str(tmp_path / "x" / "model.tflite")).get_signature_runner(name)
    ids, mask = np.ones([2, 12], np.int32), np.ones([2, 12], np.int32)
    mask[1, 5:] = 0
    found, live = signature(tokens=ids, attention_mask=mask), model(ids, attention_mask=mask)
    assert found.keys() <= {"logits", "start_logits", "end_logits"}
    for key, value in found.items():
        shown = value if value.shape[:2] != mask.shape else value[mask == 1]
        expected = live[key].numpy() if shown is value else live[key].numpy()[mask == 1]
        np.testing.assert_allclose(shown, expected, atol=1e-4)
    assert tfgpt2.TFGPT2Tokenizer.from_pretrained(tmp_path / "x").vocab_size == tokens.vocab_size


def test_what_cannot_be_exported_raises(tmp_path):
    model, tokens = make("classify")
    with pytest.raises(ValueError, match="`length` must be at most 24"):
        export_litert_task(model, tokens, tmp_path / "x", length=25)
    with pytest.raises(ValueError, match="`quantize` must be"):
        export_litert_task(model, tokens, tmp_path / "x", quantize="int2")
    with pytest.raises(TypeError, match="no head for classification"):
        export_litert_task(toy_text.model(tokens), tokens, tmp_path / "x")
    with pytest.raises(FileExistsError):
        export_litert_task(model, tokens, tmp_path)
