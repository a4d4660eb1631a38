"""Other ways to read a text against slow twins: no cache, a prefix, guidance, embeddings."""

import numpy as np
import pytest
import tensorflow as tf

LENGTHS = (6, 3, 5)
WIDTH = max(LENGTHS)
MASK = (np.arange(WIDTH) >= WIDTH - np.array(LENGTHS)[:, None]).astype(int)
IDS = np.random.RandomState(8).randint(0, 23, (3, WIDTH)) * MASK
OFF = {"eos_token_id": None, "pad_token_id": 0, "jit_compile": False}
WAYS = {
    "greedy": {},
    "sampled": {"do_sample": True, "temperature": 0.9, "seed": 2},
    "beams": {"num_beams": 3},
    "drafts": {"prompt_lookup_num_tokens": 3},
}


def new(model, ids=IDS, mask=MASK, **options):
    """New tokens `[R, T]`."""
    options = OFF | {"max_new_tokens": 10} | options
    found = model.generate(ids, attention_mask=mask, **options).numpy()
    return found[:, np.shape(ids)[1] :]


@pytest.mark.parametrize("way", [
    pytest.param(name, marks=pytest.mark.long) for name in WAYS
])  # fmt: skip
def test_without_a_cache(model, way):
    options = {"repetition_penalty": 1.3} | WAYS[way]
    np.testing.assert_array_equal(new(model, use_cache=False, **options), new(model, **options))


PENALTIES = {"repetition_penalty": 1.5, "no_repeat_ngram_size": 2}
BEFORE = np.random.RandomState(9).randint(0, 23, (3, 7))


def after(before):
    """Prefix and prompts in one piece."""
    ids = np.concatenate([np.broadcast_to(before, [3, 7]), IDS], axis=1)
    return ids, np.concatenate([np.ones([3, 7], int), MASK], axis=1)


@pytest.mark.long
@pytest.mark.parametrize(("rows", "way", "jit"), [
    (1, "greedy", False),
    pytest.param(3, "greedy", False, marks=pytest.mark.long),
    *(pytest.param(1, way, False, marks=pytest.mark.long) for way in WAYS if way != "greedy"),
    pytest.param(3, "beams", False, marks=pytest.mark.long),
    pytest.param(3, "greedy", True, marks=pytest.mark.long),
])  # fmt: skip
def test_a_prefix_equals_prompts_that_begin_with_it(model, rows, way, jit):
    """Penalties and n-grams look back into the prefix."""
    before = BEFORE[:rows]
    prefix = model.prefix(before)
    options = PENALTIES | WAYS[way] | {"jit_compile": jit}
    found = new(model, prefix=prefix, **options)
    expected = new(model, *after(before), **options)
    np.testing.assert_array_equal(found, expected)
    again = new(model, prefix=prefix, **options)  # it is as good as new
    np.testing.assert_array_equal(again, expected)


@pytest.mark.long
def test_a_padded_prefix(model):
    """A prefix with padding is the one without it, on either side."""
    whole = new(model, prefix=model.prefix(BEFORE[:1, :4]))
    for ids, mask in (([*BEFORE[0, :4], 9, 9], [1] * 4 + [0] * 2),
                      ([9, *BEFORE[0, :4]], [0] + [1] * 4)):  # fmt: skip
        padded = model.prefix([ids], attention_mask=[mask])
        np.testing.assert_array_equal(new(model, prefix=padded), whole)


@pytest.mark.long
def test_a_prefix_leaves_less_room(model):
    found = new(model, prefix=model.prefix(BEFORE[:1]), max_new_tokens=100)
    assert found.shape == (3, 48 - 7 - 3)  # the shortest row fills the context of 48
    with pytest.raises(ValueError, match="leaves no room"):
        new(model, prefix=model.prefix(np.zeros([1, 45], int)))
    with pytest.raises(ValueError, match="with 1 or 3 rows"):
        new(model, prefix=model.prefix(BEFORE[:2]))


@pytest.mark.long
def test_a_past_equals_the_whole_text(model):
    """Padding of the past stays padding."""
    past = model(
        IDS[:, :4], attention_mask=MASK[:, :4], use_cache=True,
        position_ids=np.maximum(np.cumsum(MASK[:, :4], axis=1) - 1, 0),
    ).past_key_values  # fmt: skip
    options = PENALTIES | {"do_sample": True, "seed": 1}
    np.testing.assert_array_equal(
        new(model, past_key_values=past, **options), new(model, **options)
    )


@pytest.mark.long
@pytest.mark.parametrize("way", [
    "greedy", *(pytest.param(n, marks=pytest.mark.long) for n in ("sampled", "beams", "drafts"))
])  # fmt: skip
def test_embeddings_of_ids_equal_ids(model, way):
    """With the ids beside them, penalties see the prompt; without, only what is new."""
    embeds = tf.gather(model.get_input_embeddings().weights[0], IDS)
    options = WAYS[way] | PENALTIES
    found = new(model, inputs_embeds=embeds, **options)
    np.testing.assert_array_equal(found, new(model, **options))
    if way == "greedy":
        alone = model.generate(inputs_embeds=embeds, attention_mask=MASK, max_new_tokens=10, **OFF)
        np.testing.assert_array_equal(alone, new(model))


def guided(model, scale, negatives, count):
    """Plain guidance: both texts read anew for each token."""
    texts = [IDS[row, -length:].tolist() for row, length in enumerate(LENGTHS)]
    aways = [list(row) for row in negatives]
    start = list(map(len, texts))
    for _ in range(count):
        for row, (text, away) in enumerate(zip(texts, aways, strict=True)):
            pair = [model([ids], use_cache=False).logits[0, -1].numpy().astype(float)
                    for ids in (text, away)]  # fmt: skip
            one, other = (x - np.log(np.exp(x - x.max()).sum()) - x.max() for x in pair)
            factor = scale[row]
            token = int(np.argmax(other + factor * (one - other)))
            text.append(token)
            away.append(token)
    return [text[size:] for text, size in zip(texts, start, strict=True)]


def test_guidance_equals_the_plain_formula(model):
    """A negative prompt for each row, of its own length, and a scale for each row."""
    negatives, scale = [[4, 9], [7], [1, 2, 3]], [1.5, 3.0, 0.5]
    ids = np.array([[4, 9, 0], [7, 0, 0], [1, 2, 3]])  # padded on the right
    mask = np.array([[1, 1, 0], [1, 0, 0], [1, 1, 1]])
    found = new(model, guidance_scale=scale, negative_prompt_ids=ids, max_new_tokens=6,
                negative_prompt_attention_mask=mask)  # fmt: skip
    assert found.tolist() == guided(model, scale, negatives, 6)


@pytest.mark.long
@pytest.mark.parametrize("way", [
    "greedy", *(pytest.param(n, marks=pytest.mark.long) for n in WAYS if n != "greedy")
])  # fmt: skip
def test_guidance_of_scale_1_is_none(model, way):
    """One row asks for guidance, so that all are read twice; the others must not change."""
    options = WAYS[way] | {"max_new_tokens": 8}
    plain = new(model, **options)
    found = new(model, guidance_scale=[1.0, 4.0, 1.0], negative_prompt_ids=[[5, 6]], **options)
    np.testing.assert_array_equal(found[[0, 2]], plain[[0, 2]])
    assert np.any(found[1] != plain[1])


@pytest.mark.long
def test_guidance_after_a_prefix_and_without_a_cache(model):
    guide = {"guidance_scale": 2.0, "negative_prompt_ids": [[5, 6]]}
    whole = new(model, *after(BEFORE[:1]), **guide)
    np.testing.assert_array_equal(new(model, prefix=model.prefix(BEFORE[:1]), **guide), whole)
    np.testing.assert_array_equal(new(model, use_cache=False, **guide), new(model, **guide))


STATES = np.random.RandomState(7).standard_normal((3, 4, 16)).astype(np.float32)
VISIBLE = np.array([[1, 1, 1, 1], [0, 1, 1, 0], [1, 0, 0, 0]])


@pytest.mark.long
@pytest.mark.parametrize("way", [
    "greedy", *(pytest.param(n, marks=pytest.mark.long) for n in WAYS if n != "greedy")
])  # fmt: skip
def test_cross_attention_row_by_row(build, way):
    """A row sees its own encoder, whatever stands beside it, with and without a cache."""
    model = build(seed=5, add_cross_attention=True)
    seen = {"encoder_hidden_states": STATES, "encoder_attention_mask": VISIBLE}
    options = WAYS[way] | ({"seed": [7, 8, 9]} if way == "sampled" else {})
    together = new(model, **seen, **options)
    for row, length in enumerate(LENGTHS):
        own = {name: value[row : row + 1] for name, value in seen.items()}
        if way == "sampled":
            options["seed"] = 7 + row
        alone = new(model, IDS[row : row + 1, -length:], np.ones([1, length]), **own, **options)
        np.testing.assert_array_equal(alone[0], together[row])
    if way == "greedy":
        uncached = new(model, use_cache=False, **seen)
        np.testing.assert_array_equal(uncached, together)
        assert np.any(new(model, encoder_hidden_states=STATES[::-1].copy()) != together)
