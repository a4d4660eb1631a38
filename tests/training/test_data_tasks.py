"""Datasets of the task heads: compared to other tokenizers and to plain Python, and trained on."""

import numpy as np
import pytest
import tokenizers

import tfgpt2
from tfgpt2 import GPT2Config
from tfgpt2.training import data

CONFIG = {"n_layer": 1, "n_embd": 16, "n_head": 2, "vocab_size": 1024, "n_positions": 32}


@pytest.fixture(scope="module")
def tok():
    return tfgpt2.TFGPT2Tokenizer.from_pretrained("shakespeare-tiny")


@pytest.fixture(scope="module")
def host():
    return tfgpt2.GPT2TokenizerFast.from_pretrained("shakespeare-tiny")


def one_batch(dataset):
    return {name: value.numpy() for name, value in next(iter(dataset)).items()}


def assert_trainable(cls, batch, **fields):
    """The model accepts the batch and has a finite, positive loss."""
    out = cls(GPT2Config(**CONFIG, **fields))(**batch)
    losses = [float(out[name]) for name in ("loss", "mc_loss") if name in out]
    assert losses and min(losses) > 0 and np.isfinite(losses).all()


PAIRS = [
    {"prompt": "To be, or not to be", "completion": ", that is the question"},
    {"prompt": "", "completion": "Whether 'tis nobler in the mind"},
    {"prompt": "Alas", "completion": "!"},
]


@pytest.mark.parametrize("length, multiple", [
    (32, None), *(pytest.param(*sizes, marks=pytest.mark.long) for sizes in [(5, 4), (9, 4)])
])  # fmt: skip
def test_completions(tok, host, length, multiple):
    dataset = data.completion_dataset(
        PAIRS, tok, length, 3, shuffle=False, pad_to_multiple_of=multiple
    )
    batch = one_batch(dataset)
    for i, row in enumerate(PAIRS):
        before = host(row["prompt"])["input_ids"]
        after = host(row["completion"])["input_ids"] + [tok.eos_token_id]
        after = after[: length - (1 if before else 0)]
        before = before[len(before) - min(len(before), length - len(after)) :]
        used = len(before) + len(after)
        assert batch["input_ids"][i, :used].tolist() == before + after
        assert batch["labels"][i, :used].tolist() == [-100] * len(before) + after
        assert (batch["input_ids"][i, used:] == tok.pad_token_id).all()
        assert (batch["labels"][i, used:] == -100).all()
        assert batch["attention_mask"][i].tolist() == [1] * used + [0] * (
            batch["input_ids"].shape[1] - used
        )
    longest = batch["attention_mask"].sum(1).max()
    width = length if multiple is None else min(-(-longest // multiple) * multiple, length)
    assert batch["input_ids"].shape == (3, width)
    if length == 32 and multiple is None:
        assert_trainable(tfgpt2.TFGPT2LMHeadModel, batch)


@pytest.mark.parametrize(
    "labels, options, expected",
    [
        ([1, 0, 2], {"num_labels": 3}, np.int32),
        (["b", "a", "c"], {"label_names": ["a", "b", "c"]}, np.int32),
        ([0.5, -1.0, 2.0], {"num_labels": 1}, np.float32),
        ([[1, 0, 1], [0, 0, 0], [1, 1, 1]], {"num_labels": 3}, np.float32),
    ],
)
def test_classification(tok, host, labels, options, expected):
    texts = ["To be, or not to be", "Alas", "that is the question"]
    rows = {"text": texts, "label": labels}
    dataset = data.classification_dataset(rows, tok, 6, 3, shuffle=False, **options)
    batch = one_batch(dataset)
    for i, text in enumerate(texts):
        ids = host(text)["input_ids"][:6]
        assert batch["input_ids"][i][batch["attention_mask"][i] == 1].tolist() == ids
    wanted = [options.get("label_names", []).index(x) if isinstance(x, str) else x for x in labels]
    assert batch["labels"].dtype == expected and batch["labels"].tolist() == wanted
    count = options.get("num_labels", 3)
    assert_trainable(tfgpt2.TFGPT2ForSequenceClassification, batch, num_labels=count)


WORDS = [["Lord", "Hamlet", "of", "Elsinore"], ["Alas"], ["Horatio", "unquestionably"]]
TAGS = [[1, 2, 0, -100], [0], [2, 0]]


@pytest.mark.parametrize("label_on, length", [
    pytest.param("first", 24, marks=pytest.mark.long), ("last", 5), ("all", 24)
])  # fmt: skip
def test_tagging(tok, label_on, length):
    """Tokens and words equal those of `tokenizers` on pre-split words."""
    library = tokenizers.Tokenizer.from_str(tok_json(tok))
    library.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=True)
    dataset = data.tagging_dataset(
        {"words": WORDS, "labels": TAGS}, tok, length, 3, num_labels=3, label_on=label_on,
        shuffle=False,
    )  # fmt: skip
    batch = one_batch(dataset)
    for i, (words, tags) in enumerate(zip(WORDS, TAGS, strict=True)):
        encoding = library.encode(words, is_pretokenized=True)
        owners = encoding.word_ids
        expected = []
        for place, owner in enumerate(owners):
            ends = {
                "first": place == 0 or owners[place - 1] != owner,
                "last": place + 1 == len(owners) or owners[place + 1] != owner,
                "all": True,
            }
            expected.append(tags[owner] if ends[label_on] else -100)
        real = batch["attention_mask"][i] == 1
        assert batch["input_ids"][i][real].tolist() == encoding.ids[:length]
        assert batch["labels"][i][real].tolist() == expected[:length]
        assert (batch["labels"][i][~real] == -100).all()
    assert_trainable(tfgpt2.TFGPT2ForTokenClassification, batch, num_labels=3)


def tok_json(tok):
    return tok.spec.backend().to_str()


CONTEXT = "Là-bas, naïve Ophélie sang « été » — and Hamlet, prince of Denmark, listened. 😀 fin"


def question(answer, **changed):
    start = CONTEXT.index(answer)
    row = {"question": "Who?", "context": CONTEXT}
    return row | {"answers": {"text": [answer], "answer_start": [start]}} | changed


@pytest.mark.parametrize("answer", [
    "été", "😀", *(pytest.param(a, marks=pytest.mark.long) for a in ("Là-bas", "Hamlet, prince"))
])  # fmt: skip
def test_answers_are_found_by_their_bytes(tok, answer):
    """The labelled span is the shortest that contains the answer."""
    batch = one_batch(data.qa_dataset([question(answer)], tok, 200, 1))
    ids = batch["input_ids"][0][batch["attention_mask"][0] == 1]
    asked = len(tok.tokenize("Who?"))
    start, end = int(batch["start_positions"][0]), int(batch["end_positions"][0])
    pieces = [tok.token_bytes[i] for i in ids]
    first = len(CONTEXT[: CONTEXT.index(answer)].encode())
    last = first + len(answer.encode()) - 1
    before = len(b"".join(pieces[asked:start]))
    upto = len(b"".join(pieces[asked : end + 1]))
    assert before <= first < before + len(pieces[start])
    assert upto - len(pieces[end]) <= last < upto
    assert answer.encode() in b"".join(pieces[start : end + 1])


def test_truncated_and_missing_answers_are_not_scored(tok):
    rows = [question("fin"), question("Là-bas"), question("été", answers={"text": [],
            "answer_start": []})]  # fmt: skip
    batch = one_batch(data.qa_dataset(rows, tok, 32, 3, shuffle=False))
    assert (
        batch["start_positions"].tolist()[::2] == batch["end_positions"].tolist()[::2] == [32] * 2
    )
    assert 0 < batch["start_positions"][1] <= batch["end_positions"][1] < 32
    assert_trainable(tfgpt2.TFGPT2ForQuestionAnswering, batch)


CHOICES = [
    {"prompt": "To be,", "choices": [" or not to be", " a fish"], "label": 0},
    {"prompt": "O Romeo, Romeo! wherefore art thou", "choices": ["?", " Romeo?"], "label": 1},
]


@pytest.mark.parametrize("lm_labels, length", [
    pytest.param(True, 7, marks=pytest.mark.long), (False, 24)
])  # fmt: skip
def test_choices(tok, host, lm_labels, length):
    dataset = data.multiple_choice_dataset(
        CHOICES, tok, length, 2, shuffle=False, lm_labels=lm_labels
    )
    batch = one_batch(dataset)
    assert batch["input_ids"].shape == (2, 2, length) and batch["mc_labels"].tolist() == [0, 1]
    for i, row in enumerate(CHOICES):
        for j, choice in enumerate(row["choices"]):
            before, after = host(row["prompt"])["input_ids"], host(choice)["input_ids"]
            after = after[: length - 2]
            before = before[len(before) - min(len(before), length - 1 - len(after)) :]
            ids = [*before, *after, tok.eos_token_id]
            last = batch["mc_token_ids"][i, j]
            assert batch["input_ids"][i, j, : last + 1].tolist() == ids
            assert batch["attention_mask"][i, j].sum() == len(ids) == last + 1
            if lm_labels:
                scored = [-100] * len(before) + ids[len(before) :]
                scored = scored if j == row["label"] else [-100] * len(ids)
                assert batch["labels"][i, j, : len(ids)].tolist() == scored
                assert (batch["labels"][i, j, len(ids) :] == -100).all()
    assert_trainable(tfgpt2.TFGPT2DoubleHeadsModel, batch)


LONG = [
    pytest.param(name, marks=pytest.mark.long) for name in ("completion", "tagging", "qa", "choice")
]


@pytest.mark.parametrize("make", ["classification", *LONG])
def test_every_dataset_resumes_and_shards(tok, make):
    n = 7
    rows, build, options = {
        "completion": ([{"prompt": f"{i}", "completion": " x"} for i in range(n)],
                       data.completion_dataset, {}),
        "classification": ([{"text": f"{i}", "label": 0} for i in range(n)],
                           data.classification_dataset, {"num_labels": 1}),
        "tagging": ([{"words": [f"{i}"], "labels": [0]} for i in range(n)],
                    data.tagging_dataset, {"num_labels": 1}),
        "qa": ([{"question": f"{i}", "context": "x",
                 "answers": {"text": ["x"], "answer_start": [0]}} for i in range(n)],
               data.qa_dataset, {}),
        "choice": ([{"prompt": f"{i}", "choices": [" a", " b"], "label": 0} for i in range(n)],
                   data.multiple_choice_dataset, {}),
    }[make]  # fmt: skip

    def read(batch_size=2, **more):
        dataset = build(rows, tok, 8, batch_size, epochs=2, seed=3, **options, **more)
        return [batch["input_ids"].tolist() for batch in dataset.as_numpy_iterator()]

    whole = read()
    assert read(skip_batches=5) == whole[5:]
    seen = [str(row) for i in range(3) for batch in read(1, num_shards=3, shard_index=i)
            for row in batch]  # fmt: skip
    assert sorted(seen) == sorted(str(row) for batch in whole for row in batch)
    assert len(set(seen)) == n


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda t: data.classification_dataset([{"text": "a", "label": 3}], t, 8, 1, num_labels=3),
         ValueError, r"\[0, 3\).* Received: row=0, label=3"),
        (lambda t: data.classification_dataset([{"text": "a", "label": "x"}], t, 8, 1,
         label_names=["xx", "y"]), ValueError, "no label of this name.*Did you mean 'xx'"),
        (lambda t: data.classification_dataset([{"text": "a", "label": "x"}], t, 8, 1,
         num_labels=2), TypeError, "must hold a number"),
        (lambda t: data.classification_dataset([{"text": "a", "label": 0}], t, 8, 1),
         ValueError, "number of labels must be known"),
        (lambda t: data.classification_dataset([{"text": "a", "label": [1, 0]}], t, 8, 1,
         num_labels=3), ValueError, "must hold 3 numbers"),
        (lambda t: data.classification_dataset([{"text": "a", "label": 1}, {"text": "b",
         "label": 0.5}], t, 8, 1, num_labels=2), ValueError, "of one kind"),
        (lambda t: data.classification_dataset([{"text": "", "label": 1}], t, 8, 1, num_labels=2),
         ValueError, "empty text"),
        (lambda t: data.classification_dataset([{"sentence": "a", "label": 1}], t, 8, 1,
         num_labels=2), ValueError, "no column 'text'"),
        (lambda t: data.tagging_dataset([{"words": ["a", "b"], "labels": [0]}], t, 8, 1,
         num_labels=2), ValueError, "one label for each word"),
        (lambda t: data.tagging_dataset([{"words": ["a"], "labels": [-1]}], t, 8, 1,
         num_labels=2), ValueError, r"labels=-1"),
        (lambda t: data.tagging_dataset([{"words": "a b", "labels": [0, 0]}], t, 8, 1,
         num_labels=2), TypeError, "list of texts"),
        (lambda t: data.tagging_dataset([{"words": ["a"], "labels": [0]}], t, 8, 1, num_labels=2,
         label_on="middle"), ValueError, "label_on"),
        (lambda t: data.qa_dataset([question("été", question="")], t, 8, 1), ValueError, "empty"),
        (lambda t: data.qa_dataset([question("été", answers={"text": ["été"],
         "answer_start": [3]})], t, 8, 1), ValueError, "must be in its context.* Received"),
        (lambda t: data.qa_dataset([question("été", answers="été")], t, 8, 1),
         TypeError, "SQuAD"),
        (lambda t: data.multiple_choice_dataset([CHOICES[0], {**CHOICES[1], "choices": ["a"]}],
         t, 8, 1), ValueError, "same number of choices"),
        (lambda t: data.multiple_choice_dataset([{**CHOICES[0], "label": 2}], t, 8, 1),
         ValueError, r"\[0, 2\)"),
        (lambda t: data.completion_dataset([{"prompt": "a", "completion": ""}], t, 8, 1),
         ValueError, "empty text"),
        (lambda t: data.completion_dataset(PAIRS, t, 1, 1), ValueError, "max_length"),
        (lambda t: data.completion_dataset(PAIRS, t, 8, 1, promt="x"), TypeError, "shuffle|promt"),
    ],
)  # fmt: skip
def test_errors_of_wrong_data(tok, call, error, message):
    with pytest.raises(error, match=message):
        call(tok)
