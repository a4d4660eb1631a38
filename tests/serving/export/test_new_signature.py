"""A signature is added by one class and one entry of `SIGNATURES`."""

import httpx
import pytest
import tensorflow as tf

import tfgpt2
from tests.support.saved_model_files import read_meta_graph
from tfgpt2.serving import Client
from tfgpt2.serving.export.signatures.base import SignatureFn
from tfgpt2.serving.export.signatures.registry import SIGNATURES, build, create


class CountTokens(SignatureFn):
    """Number of tokens of each text."""

    name = "count_tokens"

    def __call__(self, inputs):
        """String `[B]` -> int32 `[B]`."""
        tokens = self.generator.tokenizer.tokenize(inputs["text"])  # [B, (T)]
        return {"num_tokens": tf.cast(tokens.row_lengths(), tf.int32)}


@pytest.fixture
def generator():
    return tfgpt2.TextGenerator.from_pretrained("shakespeare-tiny", jit_compile=False)


@pytest.mark.long
def test_a_new_signature_is_exported_checked_and_served(generator, tmp_path, monkeypatch):
    monkeypatch.setitem(SIGNATURES, CountTokens.name, CountTokens)
    report = generator.export(
        tmp_path / "1",
        signatures=["tokenize", "count_tokens"],
        jit_compile=False,
        warmup=True,
    )
    assert report.checked and report.signatures == ("tokenize", "count_tokens")
    assert report.warmup_requests == 2 and report.programs == {}
    loaded = tf.saved_model.load(report.path)
    texts = ["To be, or not to be", "", "Once"]
    counts = loaded.count_tokens(tf.constant(texts))["num_tokens"].numpy().tolist()
    assert counts == generator.tokenizer.tokenize(texts).row_lengths().numpy().tolist()
    (info,) = read_meta_graph(report.path).signature_def["count_tokens"].inputs.values()
    assert [dim.size for dim in info.tensor_shape.dim] == [-1]

    def serve(request):
        return httpx.Response(200, json={"outputs": {"num_tokens": counts, "other": ["a"] * 3}})

    client = Client("http://host", transport=httpx.MockTransport(serve))
    rows = client.run("count_tokens", texts)
    assert rows == [{"num_tokens": count, "other": "a"} for count in counts]


@pytest.mark.long
def test_records_read_the_outputs(generator):
    """The record that a signature names is what the client makes of its outputs."""
    signatures = create(generator)
    functions = build(signatures)
    for name, signature in signatures.items():
        if signature.record is not None:
            columns = functions[name](text=tf.constant(["To be"]))
            row = {key: value.numpy().tolist()[0] for key, value in columns.items()}
            assert type(signature.record.from_row(row)) is signature.record
