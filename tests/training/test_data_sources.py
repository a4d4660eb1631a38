"""Sources of text, and the errors of bad sources."""

import numpy as np
import pytest
import tensorflow as tf

import tfgpt2
from tfgpt2.training import data
from tfgpt2.training.data import sources

TEXTS = ["To be", "or not", "to be, é"]


def texts(source, **options):
    found = [row["text"] for row in sources.rows(source, **options)]
    return [text.decode() if isinstance(text, bytes) else text for text in found]


class Indexed:
    def __len__(self):
        return 3

    def __getitem__(self, number):
        return {"text": TEXTS[number]}


def write_records(path):
    with tf.io.TFRecordWriter(str(path)) as writer:
        for text in TEXTS:
            value = tf.train.Feature(bytes_list=tf.train.BytesList(value=[text.encode()]))
            example = tf.train.Example(features=tf.train.Features(feature={"text": value}))
            writer.write(example.SerializeToString())
    return path


@pytest.mark.parametrize(
    "source",
    [
        TEXTS,
        tuple(TEXTS),
        (text for text in TEXTS),
        np.array(TEXTS, object),
        [{"text": text} for text in TEXTS],
        {"text": TEXTS},
        Indexed(),
        tf.data.Dataset.from_tensor_slices(TEXTS),
        tf.data.Dataset.from_tensor_slices({"text": TEXTS}),
    ],
    ids=lambda source: type(source).__name__,
)
def test_sources_in_memory(source):
    assert texts(source) == TEXTS


def test_hugging_face_datasets():
    whole = pytest.importorskip("datasets").Dataset.from_dict({"text": TEXTS})
    assert texts(whole) == texts(whole.to_iterable_dataset()) == TEXTS


def test_files(tmp_path):
    for name, text in zip("cab", TEXTS, strict=True):
        (tmp_path / f"{name}.txt").write_text(text + "\n")
    (tmp_path / "x.jsonl").write_text('{"text": "To be"}\n\n{"text": "or not"}\n')
    folder = tmp_path / "below"
    folder.mkdir()
    records = write_records(folder / "d.tfrecord")
    assert texts(tmp_path / "c.txt") == ["To be\n"]
    assert texts(str(tmp_path / "*.txt")) == ["or not\n", "to be, é\n", "To be\n"]  # by name
    assert texts([tmp_path / "b.txt", tmp_path / "a.txt"]) == ["to be, é\n", "or not\n"]
    assert texts(str(tmp_path / "*.txt"), separator=" ")[:2] == ["or", "not\n"]
    assert texts(tmp_path / "x.jsonl") == TEXTS[:2]
    assert texts(records) == texts(str(tmp_path / "**" / "*.tfrecord")) == TEXTS


@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.jsonl"])
def test_a_byte_order_mark_is_no_text(tmp_path, name):
    content = b'{"text": "To be"}\n' if name.endswith("jsonl") else b"To be"
    (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + content)
    assert texts(tmp_path / name) == ["To be"]
    assert texts(tmp_path / name, separator="\n") == ["To be"]
    (tmp_path / name).write_bytes(b"\xef\xbb\xbf")
    with pytest.raises(ValueError, match="file is empty"):
        texts(tmp_path / name)


def bad_file(tmp_path, kind):
    endings = dict.fromkeys(("json", "list"), ".jsonl")
    endings |= dict.fromkeys(("cut", "other", "none"), ".tfrecord")
    path = tmp_path / f"bad{endings.get(kind, '.txt')}"
    if kind == "cut":
        content = write_records(path).read_bytes()
        path.write_bytes(content[: len(content) // 2])
    elif kind == "other":
        with tf.io.TFRecordWriter(str(path)) as writer:
            writer.write(b"\xff\xff no example")
    else:
        content = {"json": b'{"text": ', "list": b"[1]", "latin": "\xe9".encode("latin1") + b"t"}
        path.write_bytes(content.get(kind, b" \n" if kind == "blank" else b""))
    return path


@pytest.mark.parametrize(
    "kind, message",
    [
        ("empty", "file is empty"),
        ("blank", "file is empty"),
        ("latin", "not UTF-8: .* at byte 0"),
        ("json", "Line 1 of the file is not valid JSON"),
        ("list", "Line 1 of the file is not an object"),
        ("cut", "complete TFRecords"),
        ("other", "not a tf.train.Example"),
        ("none", "file is empty"),
    ],
)
def test_bad_files_are_named(tmp_path, kind, message):
    path = bad_file(tmp_path, kind)
    with pytest.raises(ValueError, match=rf"{message}.* Received: file='.*{path.name}'.*\."):
        list(sources.rows(path))


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    path.write_text("x")

    def refuse(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.read_bytes", refuse)
    with pytest.raises(ValueError, match="cannot be read.* Received: .*Permission denied"):
        list(sources.rows(path))


@pytest.mark.parametrize("name", ["nothing-*.txt", "no.txt", "."])
def test_no_such_file(tmp_path, name):
    with pytest.raises(FileNotFoundError, match="No file has this name.* Received: source="):
        list(sources.rows(str(tmp_path / name)))


@pytest.mark.parametrize("source", [None, 3, b"text", object()])
def test_invalid_sources(source):
    with pytest.raises(TypeError, match="cannot be read from this source.* Received: "):
        list(sources.rows(source))


@pytest.mark.parametrize(
    "source, error, message",
    [
        ([{"txt": "a"}], ValueError, "no column 'text'.* Received: .*Did you mean 'txt'"),
        ([{"text": None}], ValueError, "Column 'text' of row 0 is empty"),
        ([{"text": "a"}, {"text": 3}], TypeError, "row 1 must hold a text"),
        ([], ValueError, "holds no text"),
        ([""], ValueError, "holds no text"),
        ({"text": ["a"], "other": []}, ValueError, "the same length"),
    ],
)
def test_wrong_columns_are_named(source, error, message):
    tokenizer = tfgpt2.TFGPT2Tokenizer.from_pretrained("shakespeare-tiny")
    with pytest.raises(error, match=message):
        data.lm_dataset(source, tokenizer, 4, 1)


def test_a_tokenizer_without_end_token():
    tokenizer = tfgpt2.TFGPT2Tokenizer({"a": 0}, [], eos_token=None)
    with pytest.raises(ValueError, match="no end token"):
        data.lm_dataset(["aaa"], tokenizer, 2, 1)
    assert len(data.tokenize_corpus(["aaa"], tokenizer, add_eos=False)) == 3
