"""Language-modeling data: packing, document masks, order, shards, resuming, and training."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfgpt2
from tests.support.reference_packing import packed_blocks
from tfgpt2 import GPT2Config
from tfgpt2.training import data
from tfgpt2.training.data import sources
from tfgpt2.training.data.schedule import BatchSchedule

DOCUMENTS = ["To be, or not to be", "a", "that is the question: " * 3, "Whether", "'tis nobler"] * 3


@pytest.fixture(scope="module")
def tokenizer():
    return tfgpt2.TFGPT2Tokenizer.from_pretrained("shakespeare-tiny")


@pytest.fixture(scope="module")
def corpus(tokenizer):
    return data.tokenize_corpus(DOCUMENTS, tokenizer)


@pytest.fixture(scope="module")
def tokens(tokenizer):
    return [ids.tolist() for ids in map(np.array, tokenizer.tokenize(DOCUMENTS).to_list())]


def read(dataset, name="input_ids"):
    return [batch[name].tolist() for batch in dataset.as_numpy_iterator()]


def rows(dataset, name="input_ids"):
    return [row for batch in read(dataset, name) for row in batch]


@pytest.mark.parametrize("keep_tail", [False, True])
@pytest.mark.parametrize("block", [2, 7, 16])
def test_blocks_equal_the_reference(corpus, tokens, tokenizer, block, keep_tail):
    expected = packed_blocks(
        tokens, tokenizer.eos_token_id, block, document_mask=True, keep_tail=keep_tail
    )
    dataset = data.lm_dataset(
        corpus, None, block, 3, document_mask=True, keep_tail=keep_tail, shuffle=False
    )
    names = {"input_ids": "input_ids", "labels": "labels", "position_ids": "positions"}
    for ours, reference in names.items():
        assert rows(dataset, ours) == [row[reference] for row in expected]
    assert [row[0] for row in rows(dataset, "attention_mask")] == [row["mask"] for row in expected]
    assert len(dataset) == -(-len(expected) // 3)
    plain = data.lm_dataset(corpus, None, block, 3, keep_tail=keep_tail, shuffle=False)
    expected = packed_blocks(tokens, tokenizer.eos_token_id, block, keep_tail=keep_tail)
    for name in ("input_ids", "labels"):
        assert rows(plain, name) == [row[name] for row in expected]
    assert plain.element_spec.keys() == {"input_ids", "labels"}


def test_without_end_tokens(tokenizer, tokens):
    corpus = data.tokenize_corpus(DOCUMENTS, tokenizer, add_eos=False)
    assert corpus.tokens.tolist() == sum(tokens, [])
    assert np.diff(corpus.starts).tolist() == [len(ids) for ids in tokens]


def test_long_texts_are_tokenized_in_pieces_to_the_same_tokens(tokenizer, monkeypatch, tmp_path):
    text = "First line\nand  \n\n second\nthird, é\nfourth  \n fifth\n<|endoftext|>\nlast\n" * 9
    (tmp_path / "long.txt").write_text(text)
    expected = tokenizer.tokenize([text, "more"]).to_list()
    monkeypatch.setattr("tfgpt2.training.data.corpus._PIECE", 20)
    monkeypatch.setattr("tfgpt2.training.data.corpus._BATCH", 100)
    corpus = data.tokenize_corpus([text, "more", ""], tokenizer, add_eos=False)
    assert [corpus.tokens[a:b].tolist() for a, b in zip(corpus.starts, corpus.starts[1:],
            strict=False)] == expected  # fmt: skip
    assert len(list(sources.split_document(text.encode(), 20))) > 10


@pytest.mark.parametrize("kinds", [["eager"], pytest.param(["blockwise"], marks=pytest.mark.long)])
def test_packed_documents_are_independent(corpus, tokens, tokenizer, kinds):
    """Logits and loss of packed documents equal those of each document alone."""
    config = GPT2Config(n_layer=2, n_embd=16, n_head=2, vocab_size=1024, n_positions=64)
    for kind in kinds:
        config.attn_implementation = kind
        model = tfgpt2.TFGPT2LMHeadModel(config)
        for weight in model.weights:
            if len(weight.shape) == 2:
                weight.assign(np.random.default_rng(2).normal(0, 0.3, weight.shape))
        batch = next(iter(data.lm_dataset(corpus, None, 60, 1, document_mask=True, shuffle=False)))
        packed, place, nats = model(batch), 0, []
        for document in tokens:
            ids = np.array([[*document, tokenizer.eos_token_id]])
            if place + ids.size > 60:
                break
            alone = model(ids, labels=ids)
            np.testing.assert_allclose(
                packed.logits[0, place : place + ids.size], alone.logits[0], atol=2e-5
            )
            nats += [float(alone.loss)] * (ids.size - 1)
            place += ids.size
        assert place > 20
        labels = np.where(np.arange(60) < place, batch["labels"], -100)
        found = model(**{**batch, "labels": labels}).loss
        np.testing.assert_allclose(found, np.mean(nats), rtol=1e-5)
        joined = model(batch["input_ids"]).logits
        assert np.abs(joined - packed.logits).max() > 0.01  # without the mask they differ


def options(**changed):
    return {"block_size": 4, "batch_size": 3, "seed": 5, "epochs": 3} | changed


def test_the_order_is_a_function_of_the_seed_and_differs_by_epoch(corpus):
    one = rows(data.lm_dataset(corpus, None, **options()))
    assert rows(data.lm_dataset(corpus, None, **options())) == one
    assert rows(data.lm_dataset(corpus, None, **options(seed=6))) != one
    epochs = np.array_split(np.array(one), 3)
    unshuffled = rows(data.lm_dataset(corpus, None, **options(shuffle=False, epochs=1)))
    assert not np.array_equal(epochs[0], epochs[1]) and epochs[0].tolist() != unshuffled
    assert all(sorted(epoch.tolist()) == sorted(unshuffled) for epoch in epochs)
    assert rows(data.lm_dataset(corpus, None, **options(epochs=1))) == epochs[0].tolist()


def test_shuffling_is_uniform():
    """Each of 6 examples is in each position equally often; false alarms 1 in 1000."""
    schedule = BatchSchedule(batch_size=6, epochs=1200)
    indices = np.array(list(schedule.index_batches(6).as_numpy_iterator()))
    counts = np.array([np.bincount(column, minlength=6) for column in indices.T])
    statistic = ((counts - 200.0) ** 2 / 200).sum(axis=1)
    assert statistic.max() < 24.0  # 5 degrees of freedom, six columns: 0.9998 each


@pytest.mark.parametrize("stop", [0, 1, 4, 9, 14])
def test_a_resumed_run_reads_the_same_batches(corpus, stop):
    whole = read(data.lm_dataset(corpus, None, **options()))
    rest = data.lm_dataset(corpus, None, **options(skip_batches=stop))
    assert read(rest) == whole[stop:] and len(rest) == len(whole) - stop
    endless = data.lm_dataset(corpus, None, **options(epochs=None, skip_batches=stop))
    assert read(endless.take(5)) == (whole + whole)[stop : stop + 5] or stop + 5 > len(whole)


def test_an_iterator_can_be_saved_too(corpus, tmp_path):
    iterator = iter(data.lm_dataset(corpus, None, **options()))
    for _ in range(4):
        next(iterator)
    path = tf.train.Checkpoint(iterator=iterator).save(str(tmp_path / "data"))
    expected = [batch["input_ids"].numpy().tolist() for batch in iterator]
    again = iter(data.lm_dataset(corpus, None, **options()))
    tf.train.Checkpoint(iterator=again).restore(path)
    assert [batch["input_ids"].numpy().tolist() for batch in again] == expected


@pytest.mark.parametrize("batch_size, workers", [(1, 2), (2, 3), (5, 4)])
@pytest.mark.parametrize("drop", [False, True])
def test_workers_split_the_batches_of_one_worker(corpus, batch_size, workers, drop):
    same = {"drop_remainder": drop, "epochs": 2}
    one = read(data.lm_dataset(corpus, None, **options(batch_size=batch_size * workers, **same)))
    shards = [
        read(data.lm_dataset(corpus, None, **options(
            batch_size=batch_size, num_shards=workers, shard_index=i, **same)))
        for i in range(workers)
    ]  # fmt: skip
    per_epoch = [len(shard) // 2 for shard in shards]
    for number, batch in enumerate(one):
        epoch, place = divmod(number, len(one) // 2)
        joined = [
            row
            for shard, count in zip(shards, per_epoch, strict=True)
            if place < count
            for row in shard[epoch * count + place]
        ]
        assert joined == batch
    if drop:
        assert len(set(per_epoch)) == 1  # all workers make the same number of steps


def test_static_shapes_where_all_batches_are_whole(corpus):
    spec = data.lm_dataset(corpus, None, 4, 3, drop_remainder=True).element_spec
    assert spec["input_ids"].shape == (3, 4) and spec["input_ids"].dtype == tf.int32


def test_a_cache_keeps_the_tokens(tokenizer, corpus, tmp_path):
    (tmp_path / "a.txt").write_text("To be\nor not")
    reading = {"source": str(tmp_path / "*.txt"), "separator": "\n", "cache": tmp_path / "c" / "d"}
    first = data.tokenize_corpus(tokenizer=tokenizer, **reading)
    stamp = (tmp_path / "c" / "d" / "tokens.bin").stat().st_mtime_ns
    again = data.tokenize_corpus(tokenizer=tokenizer, **reading)
    assert again.tokens.tolist() == first.tokens.tolist() and len(again.starts) == 3
    assert (tmp_path / "c" / "d" / "tokens.bin").stat().st_mtime_ns == stamp
    assert [path.name for path in (tmp_path / "c").iterdir()] == [
        "d"
    ]  # no temporary files are left
    dataset = data.lm_dataset(block_size=2, batch_size=1, tokenizer=tokenizer, shuffle=False,
                              **reading)  # fmt: skip
    assert rows(dataset)[0] == first.tokens[:2].tolist()
    with pytest.raises(ValueError, match="cache was made from another.* Received: .*'eos'"):
        data.tokenize_corpus(tokenizer=tokenizer, add_eos=False, **reading)
    (tmp_path / "b.txt").write_text("that is")
    with pytest.raises(ValueError, match="cache was made from another.* Received: .*'source'"):
        data.tokenize_corpus(tokenizer=tokenizer, **reading)


@pytest.mark.long
def test_fit_on_packed_documents(corpus):
    keras.utils.set_random_seed(0)
    model = tfgpt2.TFGPT2LMHeadModel(
        GPT2Config(n_layer=1, n_embd=16, n_head=2, vocab_size=1024, n_positions=16)
    )
    model.compile(keras.optimizers.Adam(0.01), chunked_loss=32)
    dataset = data.lm_dataset(corpus, None, 16, 2, document_mask=True, epochs=None)
    losses = model.fit(dataset, steps_per_epoch=8, epochs=4, verbose=0).history["loss"]
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize(
    "changed, error, message",
    [
        ({"block_size": 10**4}, ValueError, "shorter than a block"),
        ({"block_size": 1}, ValueError, "block_size"),
        ({"batch_size": 0}, ValueError, "batch_size"),
        ({"batch_size": 2.5}, TypeError, "batch_size"),
        ({"batch_size": 10**4, "drop_remainder": True}, ValueError, "too few examples"),
        ({"seed": -1}, ValueError, "seed"),
        ({"num_shards": 2, "shard_index": 2}, ValueError, "shard_index"),
        ({"suffle": True}, TypeError, "Did you mean 'shuffle'"),
    ],
)
def test_wrong_options_are_named(corpus, changed, error, message):
    with pytest.raises(error, match=message):
        data.lm_dataset(corpus, None, **options(**changed))
