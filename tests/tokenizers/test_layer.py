"""`TFGPT2Tokenizer`: shapes, padding, options, and every place a layer can be used."""

import subprocess
import sys
import textwrap

import keras
import keras_nlp
import numpy as np
import pytest
import tensorflow as tf

from tfgpt2 import TFGPT2Tokenizer
from tfgpt2.tokenizers.byte_level_bpe import ByteLevelBPETokenizer

VOCAB = {"a": 0, "b": 1, "ab": 2, "Ġ": 3, "<|endoftext|>": 4}
MERGES = ["a b"]
TEXTS = ["abba", "b", "", "aaaa"]  # 3, 1, 0 and 4 tokens


def make(**options):
    return TFGPT2Tokenizer(VOCAB, MERGES, **options)


def lists(batch):
    return {key: value.numpy().tolist() for key, value in batch.items()}


def test_a_batch_is_padded_on_the_right():
    batch = make()(TEXTS)
    assert batch["input_ids"].dtype == batch["attention_mask"].dtype == tf.int32
    assert list(batch) == ["input_ids", "attention_mask"]
    assert lists(batch) == {
        "input_ids": [[2, 1, 0, 4], [1, 4, 4, 4], [4, 4, 4, 4], [0, 0, 0, 0]],
        "attention_mask": [[1, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]],
    }


def test_a_batch_is_padded_on_the_left():
    assert lists(make(padding_side="left", pad_token_id=9)(TEXTS)) == {
        "input_ids": [[9, 2, 1, 0], [9, 9, 9, 1], [9, 9, 9, 9], [0, 0, 0, 0]],
        "attention_mask": [[0, 1, 1, 1], [0, 0, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1]],
    }


def test_the_mask_is_not_inferred_from_the_pad_token():
    batch = make()(["a<|endoftext|>", "a"])
    assert lists(batch)["input_ids"] == [[0, 4], [0, 4]]
    assert lists(batch)["attention_mask"] == [[1, 1], [1, 0]]


@pytest.mark.parametrize("side", ["left", "right"])
def test_max_length_cuts_and_pads(side):
    tokenizer = make(truncation_side=side)
    kept = [[1, 0], [1, 4], [4, 4], [0, 0]] if side == "left" else [[2, 1], [1, 4], [4, 4], [0, 0]]
    batch = tokenizer(TEXTS, max_length=2)
    assert lists(batch)["input_ids"] == kept
    assert lists(batch)["attention_mask"] == [[1, 1], [1, 0], [0, 0], [1, 1]]
    assert tokenizer(TEXTS, max_length=7)["input_ids"].shape == (4, 7)
    assert lists(make(truncation_side=side, max_length=2)(TEXTS)) == lists(batch)
    assert make(max_length=2)(TEXTS, max_length=3)["input_ids"].shape == (4, 3)


def test_the_first_token():
    tokenizer = make(add_bos_token=True)
    assert lists(tokenizer(["ab", ""])) == {
        "input_ids": [[4, 2], [4, 4]],
        "attention_mask": [[1, 1], [1, 0]],
    }
    assert lists(tokenizer(TEXTS, max_length=2))["input_ids"] == [[4, 2], [4, 1], [4, 4], [4, 0]]
    assert tokenizer.tokenize("ab").numpy().tolist() == [2]
    left = make(add_bos_token=True, truncation_side="left", padding_side="left")
    assert lists(left(TEXTS, max_length=2))["input_ids"] == [[4, 0], [4, 1], [4, 4], [4, 0]]


def test_pad_to_multiple_of():
    assert make(pad_to_multiple_of=8)(TEXTS)["input_ids"].shape == (4, 8)
    assert make(pad_to_multiple_of=2)(TEXTS)["input_ids"].shape == (4, 4)
    assert make(pad_to_multiple_of=8)(tf.constant([], tf.string))["input_ids"].shape == (0, 0)
    assert make(pad_to_multiple_of=8)(TEXTS, max_length=3)["input_ids"].shape == (4, 3)


def test_ragged_on_request():
    batch = make(ragged=True)(TEXTS)
    assert batch["input_ids"].to_list() == [[2, 1, 0], [1], [], [0, 0, 0, 0]]
    assert batch["attention_mask"].to_list() == [[1, 1, 1], [1], [], [1, 1, 1, 1]]
    assert make(ragged=True)(TEXTS, max_length=2)["input_ids"].to_list()[0] == [2, 1]
    assert make(ragged=True)([["ab", "b"]])["input_ids"].to_list() == [[[2], [1]]]


@pytest.mark.parametrize(
    "one", ["abba", b"abba", tf.constant("abba"), np.array("abba"), np.str_("abba")]
)
def test_one_text_is_a_batch_of_one_for_a_model_and_a_row_for_tokenize(one):
    assert lists(make()(one)) == {"input_ids": [[2, 1, 0]], "attention_mask": [[1, 1, 1]]}
    assert make().tokenize(one).numpy().tolist() == [2, 1, 0]


@pytest.mark.parametrize(
    "several",
    [
        ["ab", "b"],
        ("ab", "b"),
        [b"ab", "b"],
        np.array(["ab", "b"]),
        np.array(["ab", "b"], object),
        tf.constant(["ab", "b"]),
        [tf.constant("ab"), tf.constant("b")],
    ],
)
def test_several_texts(several):
    assert lists(make()(several))["input_ids"] == [[2], [1]]
    assert make().tokenize(several).to_list() == [[2], [1]]


def test_texts_in_groups():
    group = [["ab", "b"], ["a", "abb"]]
    batch = make()(tf.constant(group))
    assert lists(batch) == {
        "input_ids": [[[2, 4], [1, 4]], [[0, 4], [2, 1]]],
        "attention_mask": [[[1, 0], [1, 0]], [[1, 0], [1, 1]]],
    }
    assert make().tokenize(group).to_list() == [[[2], [1]], [[0], [2, 1]]]
    assert make()(tf.constant([["a"], ["b"]]))["input_ids"].shape == (2, 1, 1)


def test_ragged_texts():
    texts = tf.ragged.constant([["ab", "b"], [], ["a"]])
    assert make().tokenize(texts).to_list() == [[[2], [1]], [], [[0]]]
    batch = make()(texts)
    assert lists(batch)["input_ids"] == [[[2], [1]], [[4], [4]], [[0], [4]]]
    assert lists(batch)["attention_mask"] == [[[1], [1]], [[0], [0]], [[1], [0]]]


@pytest.mark.parametrize("empty", [[], np.array([], object), tf.constant([], tf.string)])
def test_an_empty_batch(empty):
    assert make()(empty)["input_ids"].shape == (0, 0)
    assert make()(empty, max_length=3)["attention_mask"].shape == (0, 3)
    assert make(padding_side="left")(empty)["input_ids"].shape == (0, 0)
    assert make().tokenize(empty).to_list() == []
    assert make().detokenize(make().tokenize(empty)).shape == (0,)


def test_empty_texts():
    assert make()("")["input_ids"].shape == (1, 0)
    assert make()(["", ""])["attention_mask"].shape == (2, 0)
    assert make().tokenize("").numpy().tolist() == []
    assert make().detokenize(make().tokenize("")).numpy() == b""


def test_nul_bytes(toy):
    text = b"a\x00b \x00\x00"
    assert toy.detokenize(toy.tokenize(tf.constant([text]))).numpy().tolist() == [text]


def test_the_pad_token_falls_back_to_the_eos_token_and_then_to_zero():
    assert make().pad_token_id == 4
    assert make(pad_token="b").pad_token_id == 1
    assert make(pad_token="b", pad_token_id=7).pad_token_id == 7
    bare = TFGPT2Tokenizer({"a": 0, "b": 1}, [])
    assert (bare.bos_token_id, bare.eos_token_id, bare.unk_token_id) == (None, None, None)
    assert bare.pad_token_id == 0
    assert lists(bare(["ab", "b"]))["attention_mask"] == [[1, 1], [1, 0]]


def test_vocabulary():
    tokenizer = TFGPT2Tokenizer({"a": 0, "Ġb": 3}, [], eos_token="<e>")
    assert tokenizer.vocab_size == tokenizer.vocabulary_size() == 5
    assert tokenizer.get_vocabulary() == ["a", "", "", "Ġb", "<e>"]
    assert tokenizer.token_bytes == [b"a", b"", b"", b" b", b"<e>"]
    assert tokenizer.get_vocab() == {"a": 0, "Ġb": 3, "<e>": 4}
    assert tokenizer.token_to_id("Ġb") == 3
    assert tokenizer.id_to_token(4) == "<e>"
    assert tokenizer.eos_token_id == 4


def test_detokenize_takes_lists_and_tensors(toy):
    ids = toy.tokenize(["Speak the speech", "x"])
    wanted = [b"Speak the speech", b"x"]
    assert toy.detokenize(ids).numpy().tolist() == wanted
    assert toy.detokenize(ids.to_list()).numpy().tolist() == wanted
    assert toy.detokenize(ids.to_tensor(-1)).numpy().tolist() == wanted
    assert toy.detokenize(tf.cast(ids, tf.int64)).numpy().tolist() == wanted
    assert toy.detokenize(ids.to_list()[0]).numpy() == wanted[0]
    assert toy.detokenize(ids.to_tensor(-1).numpy()).numpy().tolist() == wanted
    assert toy.detokenize(tf.Variable(ids.to_tensor(-1))).numpy().tolist() == wanted
    assert toy.detokenize([]).numpy() == b""
    assert toy.detokenize([[]]).numpy().tolist() == [b""]


def test_detokenize_replaces_what_is_not_utf8(toy):
    ids = toy.tokenize("日")[:-1]
    assert toy.detokenize(ids).numpy().decode() == "\ufffd"
    assert toy.detokenize_bytes(ids).numpy() == "日".encode()[:-1]


def test_config_round_trip(toy):
    tokenizer = TFGPT2Tokenizer.from_config(toy.get_config())
    assert tokenizer.get_config() == toy.get_config()
    options = {
        "max_length": 5,
        "pad_token_id": 3,
        "padding_side": "left",
        "truncation_side": "left",
        "add_bos_token": True,
        "add_prefix_space": True,
        "special_tokens": "text",
        "pad_to_multiple_of": 2,
        "ragged": True,
        "bos_token": "b",
        "additional_special_tokens": ["<x>"],
        "model_max_length": 77,
        "name": "mine",
    }
    first = make(**options)
    second = TFGPT2Tokenizer.from_config(first.get_config())
    assert second.get_config() == first.get_config()
    third = keras.layers.deserialize(keras.layers.serialize(first))
    assert third.get_config() == first.get_config()
    assert third(["abba"])["input_ids"].to_list() == first(["abba"])["input_ids"].to_list()


def test_in_a_tf_function_with_unknown_batch(toy):
    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def run(text):
        return toy(text)

    for texts in (["Speak", "the speech, I pray"], ["x"], []):
        text = tf.constant(texts, tf.string)
        assert lists(run(text)) == lists(toy(text))


def test_in_a_dataset(toy):
    texts = ["Speak", "the speech, I pray", "", "you"]
    dataset = tf.data.Dataset.from_tensor_slices(texts)
    batched = next(iter(dataset.batch(4).map(toy, num_parallel_calls=2)))
    assert lists(batched) == lists(toy(texts))
    rows = dataset.map(toy.tokenize)
    assert [row.numpy().tolist() for row in rows] == toy.tokenize(texts).to_list()
    shape = dataset.batch(2).map(lambda text: toy(text, max_length=6)).element_spec
    assert shape["input_ids"].shape.as_list() == [None, 6]


def functional(tokenizer, **options):
    text = keras.Input((), dtype="string")
    return keras.Model(text, tokenizer(text, **options))


def test_in_a_functional_model(toy):
    texts = tf.constant(["Speak the speech", "x"])
    model = functional(toy, max_length=4)
    assert model.output["input_ids"].shape == (None, 4)
    assert lists(model(texts)) == lists(toy(texts, max_length=4))
    free = functional(toy)
    assert lists(free(texts)) == lists(toy(texts))
    ids = free.predict(texts, verbose=0)["input_ids"]
    assert ids.tolist() == toy(texts)["input_ids"].numpy().tolist()


def test_ragged_rows_in_a_functional_model(toy_backend):
    tokenizer = TFGPT2Tokenizer.from_tokenizer(toy_backend, ragged=True)
    text = keras.Input((), dtype="string")
    batch = keras.Model(text, tokenizer(text))(tf.constant(["Speak the speech", "x"]))
    assert batch["input_ids"].to_list() == tokenizer.tokenize(["Speak the speech", "x"]).to_list()


def test_keras_file(toy, tmp_path):
    texts = tf.constant(["Speak the speech<|endoftext|>", "x"])
    model = functional(toy)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert lists(loaded(texts)) == lists(model(texts))


CLEAN_PROCESS = """
    import sys, tensorflow as tf, tensorflow_text
    loaded = tf.saved_model.load(sys.argv[1])
    batch = loaded.signatures["serving_default"](text=tf.constant(["Speak<|endoftext|> the", "x"]))
    print("ids", batch["input_ids"].numpy().tolist(), batch["attention_mask"].numpy().tolist())
    if "detokenize" in loaded.signatures:
        text = loaded.signatures["detokenize"](ids=batch["input_ids"])["text"]
        print("text", text.numpy().tolist())
    assert not [name for name in sys.modules if name.startswith(("tfgpt2", "keras_hub"))]
"""


def in_a_clean_process(path):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(CLEAN_PROCESS), str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.long
def test_keras_export_runs_without_this_package(toy, tmp_path):
    text = keras.Input((), dtype="string", name="text")
    keras.Model(text, toy(text)).export(str(tmp_path / "1"), verbose=False)
    batch = lists(toy(["Speak<|endoftext|> the", "x"]))
    wanted = f"ids {batch['input_ids']} {batch['attention_mask']}"
    assert in_a_clean_process(tmp_path / "1") == [wanted]


def save_with_signatures(tokenizer, path, count):
    module = tf.Module()
    module.tokenizer = tokenizer

    def encode(text):
        return tokenizer(text)

    def decode(ids):
        return {"text": tokenizer.detokenize(ids)}

    text, ids = tf.TensorSpec([None], tf.string, "text"), tf.TensorSpec([None, None], tf.int32)
    signatures = {"serving_default": tf.function(encode).get_concrete_function(text)}
    for index in range(count):
        name = f"detokenize{index or ''}"
        spec = tf.TensorSpec(ids.shape, ids.dtype, "ids")
        signatures[name] = tf.function(decode).get_concrete_function(spec)
        signatures[f"tokenize{index}"] = tf.function(encode).get_concrete_function(text)
    tf.saved_model.save(module, str(path), signatures=signatures)
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


@pytest.mark.long
def test_saved_model_holds_the_vocabulary_once(gpt2, tmp_path):
    one = save_with_signatures(gpt2, tmp_path / "one", 1)
    five = save_with_signatures(gpt2, tmp_path / "five", 5)
    # Eight more functions; each brings the pattern, 28 kB, but not the vocabulary, 3 MB.
    assert (five - one) / 8 < 50_000
    assert one < 4_000_000
    lines = in_a_clean_process(tmp_path / "one")
    # The short row is filled with the pad token, which is `<|endoftext|>`.
    batch = gpt2(["Speak<|endoftext|> the", "x"])
    assert lines[0] == f"ids {lists(batch)['input_ids']} {lists(batch)['attention_mask']}"
    assert lines[1] == f"text {gpt2.detokenize(batch['input_ids']).numpy().tolist()}"


def test_exported_ops_are_those_of_tensorflow_and_tensorflow_text(toy, tmp_path):
    save_with_signatures(toy, tmp_path / "1", 1)
    proto = tf.saved_model.load(str(tmp_path / "1"))
    graph = proto.signatures["serving_default"].graph.as_graph_def()
    ops = {node.op for node in graph.node} | {
        node.op for function in graph.library.function for node in function.node_def
    }
    text_ops = {op for op in ops if "Sentencepiece" in op or "Wordpiece" in op or "Ragged" in op}
    assert text_ops <= {
        "SentencepieceOp",
        "SentencepieceTokenizeOp",
        "RaggedGather",
        "RaggedTensorToTensor",
    }
    assert not {op for op in ops if op.startswith(("Xla", "PyFunc", "EagerPyFunc"))}


def test_the_core_layer_serves_keras_hub(toy_backend):
    core = ByteLevelBPETokenizer.from_tokenizer(toy_backend)
    assert isinstance(core, keras_nlp.tokenizers.Tokenizer)
    assert core(["Speak", "x"]).to_list() == core.tokenize(["Speak", "x"]).to_list()
    ids = core.tokenize("Speak").numpy().tolist()
    row = ([core.bos_token_id, *ids, core.eos_token_id] + [core.pad_token_id] * 6)[:6]
    preprocessor = keras_nlp.models.GPT2CausalLMPreprocessor(core, sequence_length=6)
    dataset = tf.data.Dataset.from_tensor_slices(["Speak"]).batch(1).map(preprocessor)
    for x, _, _ in (preprocessor(["Speak"]), next(iter(dataset))):
        assert x["token_ids"].numpy().tolist() == [row]
    batch = preprocessor.generate_preprocess(["Speak"])
    assert preprocessor.generate_postprocess(batch).numpy() == [b"<|endoftext|>Speak"]
    clone = ByteLevelBPETokenizer.from_config(core.get_config())
    assert clone.get_config() == core.get_config()
