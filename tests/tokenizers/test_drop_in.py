"""The host tokenizer behaves as transformers 4.57's where programs depend on it."""

import copy
import json
import pickle

import pytest
import tokenizers

from tfgpt2 import AutoTokenizer, GPT2Tokenizer, PreTrainedTokenizerFast, TFGPT2Tokenizer


@pytest.fixture
def tokenizer():
    return AutoTokenizer.from_pretrained("shakespeare-tiny")


@pytest.mark.parametrize("bos", ["$", "a:b", "$A:1", "<s>"])
def test_any_bos_token_can_be_added(tokenizer, bos, tmp_path):
    tokenizer.add_special_tokens({"bos_token": bos})
    tokenizer.add_bos_token = True
    expected = [tokenizer.bos_token_id, *tokenizer.encode("To be", add_special_tokens=False)]
    assert tokenizer("To be")["input_ids"] == expected
    tokenizer.save_pretrained(tmp_path)
    again = GPT2Tokenizer.from_pretrained(tmp_path)
    assert again.bos_token == bos and again("To be")["input_ids"] == expected
    plain = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert plain.encode("To be").ids == expected


def test_ids_of_special_tokens_can_be_set(tokenizer):
    tokenizer.pad_token_id = tokenizer.eos_token_id
    assert tokenizer.pad_token == tokenizer.eos_token
    tokenizer.pad_token_id = None
    assert tokenizer.pad_token is None and tokenizer.pad_token_id is None
    ids = tokenizer.convert_tokens_to_ids(["e", "t"])
    tokenizer.additional_special_tokens_ids = ids
    assert tokenizer.additional_special_tokens == ["e", "t"]
    assert tokenizer.additional_special_tokens_ids == ids
    tokenizer.additional_special_tokens = ["<new>"]
    assert tokenizer.additional_special_tokens_ids == [tokenizer.vocab_size]
    with pytest.raises(ValueError, match="`pad_token_id` must be the id of a token"):
        tokenizer.pad_token_id = 10**6


# Arguments and options of calls, which give what transformers' fast tokenizer gives.
SOME = ["To be, or not to be", "that is"]
CALLS = {
    "pairs": (([("To be", "or not"), ("that", "is")],), {"return_token_type_ids": True}),
    "overflow": ((SOME,), {"truncation": True, "max_length": 4, "stride": 1, "padding": True,
                           "return_overflowing_tokens": True, "return_offsets_mapping": True}),
    "question": ((["Who?"], ["It is I, Hamlet the Dane"]),
                 {"truncation": "only_second", "max_length": 9, "stride": 2,
                  "return_overflowing_tokens": True, "return_special_tokens_mask": True}),
    "left": ((SOME,), {"truncation": True, "max_length": 4, "stride": 1, "padding": "max_length",
                       "return_overflowing_tokens": True, "padding_side": "left",
                       "return_length": True}),
    "words": (([["To", "be,"], ["or", "not"]],), {"is_split_into_words": True}),
    "one pair of words": ((["To", "be"], ["or", "not"]), {"is_split_into_words": True}),
    "target": (("To be",), {"text_target": "or not"}),
}  # fmt: skip


def to_oracle(tmp_path, module):
    """transformers' own tokenizer of the bundled files."""
    AutoTokenizer.from_pretrained("shakespeare-tiny").save_pretrained(tmp_path)
    return module.AutoTokenizer.from_pretrained(tmp_path, add_prefix_space=True)


@pytest.fixture
def spaced():
    tokenizer = AutoTokenizer.from_pretrained("shakespeare-tiny", add_prefix_space=True)
    tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


@pytest.mark.parametrize("name", CALLS)
def test_calls_equal_transformers(spaced, name, tmp_path):
    transformers = pytest.importorskip("transformers")
    theirs = to_oracle(tmp_path, transformers)
    theirs.pad_token = theirs.eos_token
    arguments, options = CALLS[name]
    expected, found = theirs(*arguments, **options), spaced(*arguments, **options)
    assert dict(found) == dict(expected)
    if name == "target":
        return
    rows = len(expected.encodings)
    assert len(found.encodings) == rows and found.n_sequences == expected.n_sequences
    for row in range(rows):
        for method in ("tokens", "word_ids", "sequence_ids"):
            assert getattr(found, method)(row) == getattr(expected, method)(row)
        for i in range(len(found.tokens(row))):
            assert found.token_to_chars(row, i) == expected.token_to_chars(row, i)
            assert found.token_to_word(row, i) == expected.token_to_word(row, i)
            assert found.char_to_token(row, i) == expected.char_to_token(row, i)
            assert found.char_to_word(row, i) == expected.char_to_word(row, i)
            assert found.word_to_tokens(row, i) == expected.word_to_tokens(row, i)


def test_overflowing_tokens_become_rows(spaced):
    out = spaced(SOME, truncation=True, max_length=4, stride=1, return_overflowing_tokens=True)
    whole = spaced(SOME)["input_ids"]
    assert set(out["overflow_to_sample_mapping"]) == {0, 1} or len(whole[1]) <= 4
    first = [
        ids for ids, i in zip(out.input_ids, out.overflow_to_sample_mapping, strict=False) if i == 0
    ]
    joined = first[0] + [x for ids in first[1:] for x in ids[1:]]
    assert joined == whole[0] and all(a[-1] == b[0] for a, b in zip(first, first[1:], strict=False))
    with pytest.raises(ValueError, match="`stride` must be smaller"):
        spaced(SOME, truncation=True, max_length=4, stride=4)


def test_methods_around_calls(spaced, tokenizer):
    assert spaced.encode_plus("To be") == spaced("To be") == spaced("To be", verbose=False)
    assert spaced.batch_encode_plus(SOME) == spaced(SOME)
    assert spaced.encode(("To be", "or")) == spaced.encode("To be", "or")
    ids = spaced.encode("To be")
    assert spaced.prepare_for_model(ids, ids)["input_ids"] == ids * 2
    assert spaced.prepare_for_model(ids, max_length=1, truncation=True)["input_ids"] == ids[:1]
    assert spaced.truncate_sequences([1, 2, 3], num_tokens_to_remove=1) == ([1, 2], None, [3])
    assert spaced.num_special_tokens_to_add() == 0
    spaced.add_bos_token = True
    bos = spaced.bos_token_id
    assert spaced.num_special_tokens_to_add(pair=True) == 2
    assert spaced.build_inputs_with_special_tokens([1], [2]) == [bos, 1, bos, 2]
    assert spaced.create_token_type_ids_from_sequences([1], [2]) == [0, 0, 1, 1]
    assert spaced.get_special_tokens_mask([1], [2]) == [1, 0, 1, 0]
    marked = spaced.get_special_tokens_mask([bos, 1], already_has_special_tokens=True)
    assert marked == [1, 0] and spaced.added_tokens_decoder[bos].content == spaced.bos_token
    assert spaced.max_len_single_sentence == spaced.model_max_length - 1
    assert tokenizer.name_or_path == "shakespeare-tiny"
    assert tokenizer.init_kwargs["eos_token"] == tokenizer.eos_token
    with pytest.raises(ValueError, match="add_prefix_space=True"):
        tokenizer(["To", "be"], is_split_into_words=True)
    with pytest.raises(TypeError, match="paddding"):
        tokenizer("a", paddding=True)
    assert GPT2Tokenizer.from_pretrained("shakespeare-tiny", use_fast=True).is_fast
    tokenizer.model_max_length = None
    assert tokenizer.model_max_length == int(1e30)
    with pytest.warns(UserWarning, match="no `model_max_length`"):
        assert tokenizer("To be", truncation=True) == tokenizer("To be")


def test_padding_keeps_other_columns(spaced):
    rows = [spaced(text) | {"labels": label} for text, label in zip(SOME, (0.5, 1.5), strict=True)]
    out = spaced.pad(rows, return_tensors="np")
    assert out["labels"].tolist() == [0.5, 1.5] and out["input_ids"].shape[0] == 2
    one = spaced.pad(spaced("To be"), padding="max_length", max_length=9)
    assert len(one["input_ids"]) == 9 and sum(one["attention_mask"]) == len(
        spaced("To be").tokens()
    )
    tensors = spaced("To be").convert_to_tensors("np", prepend_batch_axis=True)
    assert tensors["input_ids"].shape[0] == 1


def test_a_new_vocabulary(tokenizer):
    texts = ["low lower lowest " * 20, "new newer newest " * 20]
    new = tokenizer.train_new_from_iterator(texts, 300, new_special_tokens=["<sep>"])
    assert type(new) is type(tokenizer) and new.eos_token == tokenizer.eos_token
    assert 256 < len(new) <= 300 and new.decode(new.encode("lower<sep>")) == "lower<sep>"
    assert len(new.encode("lowest")) < 6 and "<sep>" in new.all_special_tokens


TEMPLATE = (
    "{% for m in messages %}\n    {% if loop.index > 9 %}{% break %}{% endif %}\n"
    "{{ '<|' + m.role + '|>' + m.content | trim + eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    "{% if tools %}{{ tools | tojson }}{% endif %}"
)
CHAT = [{"role": "user", "content": " Who is it? "}, {"role": "assistant", "content": "It is I "}]


@pytest.mark.parametrize("options", [
    {}, {"add_generation_prompt": True}, {"continue_final_message": True},
    {"tools": [{"name": "<f>"}]}, {"tokenize": True}, {"tokenize": True, "return_dict": True},
], ids=str)  # fmt: skip
def test_chat_templates(tokenizer, options, tmp_path):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(
        to_oracle(tmp_path, transformers).name_or_path
    )
    options = {"tokenize": False} | options
    tokenizer.chat_template = theirs.chat_template = TEMPLATE
    found = tokenizer.apply_chat_template(CHAT, **options)
    expected = theirs.apply_chat_template(CHAT, **{"return_dict": False} | options)
    assert found == (dict(expected) if options.get("return_dict") else expected)
    several = tokenizer.apply_chat_template([CHAT, CHAT[:1]], tokenize=False)
    assert len(several) == 2


def test_chat_templates_belong_to_the_tokenizer(tokenizer, tmp_path):
    named = {"default": TEMPLATE, "other": "b"}
    for template in (TEMPLATE, named):
        tokenizer.chat_template = template
        tokenizer.save_pretrained(tmp_path / "a")
        layer = TFGPT2Tokenizer.from_pretrained(tmp_path / "a")
        layer.save_pretrained(tmp_path / "b")
        again = AutoTokenizer.from_pretrained(tmp_path / "b")
        copy = TFGPT2Tokenizer.from_config(layer.get_config())
        given = TFGPT2Tokenizer.from_pretrained(tmp_path / "a", chat_template="c")
        found = [one.spec.chat_template for one in (layer, again, copy, given)]
        assert found == [template, template, template, "c"]
        assert type(tokenizer).from_tokenizer(layer).chat_template == template
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "b")
    assert TFGPT2Tokenizer.from_tokenizer(theirs).spec.chat_template == named
    with pytest.raises(ValueError, match="`chat_template` must be"):
        tokenizer.chat_template = 3


def test_chat_templates_are_files_and_run_in_a_sandbox(tokenizer, tmp_path):
    with pytest.raises(ValueError, match="no chat template"):
        tokenizer.apply_chat_template(CHAT)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(tmp_path / "one")
    assert AutoTokenizer.from_pretrained(tmp_path / "one").chat_template == TEMPLATE
    named = {"default": "a", "other": "b{{ bos_token }}"}
    tokenizer.chat_template = named
    tokenizer.save_pretrained(tmp_path / "two")
    again = AutoTokenizer.from_pretrained(tmp_path / "two")
    assert again.chat_template == named
    assert again.apply_chat_template(CHAT, tokenize=False) == "a"
    assert (tmp_path / "two" / "additional_chat_templates" / "other.jinja").exists()
    tokenizer.save_pretrained(tmp_path / "three", save_jinja_files=False)
    assert not list((tmp_path / "three").glob("*.jinja"))
    assert AutoTokenizer.from_pretrained(tmp_path / "three").chat_template == named
    (tmp_path / "two" / "chat_template.jinja").unlink()
    only = AutoTokenizer.from_pretrained(tmp_path / "two")
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "two")
    assert only.chat_template == theirs.chat_template == {"other": named["other"]}
    with pytest.raises(ValueError, match="several chat templates.*none.*'other'"):
        only.apply_chat_template(CHAT)
    again.chat_template = named | {"../../escape": "c"}
    with pytest.raises(ValueError, match="without a folder"):
        again.save_pretrained(tmp_path / "four")
    again.chat_template = "{% generation %}{{ messages[0].content }}{% endgeneration %}!"
    assert again.apply_chat_template(CHAT, tokenize=False) == " Who is it? !"
    again.chat_template = named
    text = again.apply_chat_template(CHAT, tokenize=False, chat_template="other")
    assert text == "b" + again.bos_token
    (tmp_path / "five").mkdir()
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path / "five")
    path = tmp_path / "five" / "tokenizer_config.json"
    for damaged in (3, [1], [{"name": "a"}], {"a": 1}):
        values = json.loads(path.read_text()) | {"chat_template": damaged}
        path.write_text(json.dumps(values))
        with pytest.raises(ValueError, match="`chat_template` must be"):
            AutoTokenizer.from_pretrained(tmp_path / "five")
    for code in ("{{ messages.__class__.__mro__ }}", "{{ raise_exception('no') }}", "{% for %}",
                 "{{ messages.append(1) }}", "{{ ''.__class__.__subclasses__() }}"):  # fmt: skip
        with pytest.raises(ValueError, match="The chat template fails"):
            tokenizer.apply_chat_template(CHAT, chat_template=code)


def test_settings_of_one_call(tokenizer):
    """A space before the text, and special tokens that are text, for one call or for all."""
    spaced = AutoTokenizer.from_pretrained("shakespeare-tiny", add_prefix_space=True)
    for call in (tokenizer, tokenizer.encode, tokenizer.tokenize):
        assert call("To be", add_prefix_space=True) == call(" To be") != call("To be")
    assert spaced.encode("To be", add_prefix_space=False) == tokenizer.encode("To be")
    words = tokenizer(["To", "be"], is_split_into_words=True, add_prefix_space=True)
    assert words.word_ids() == spaced(["To", "be"], is_split_into_words=True).word_ids()
    text = f"To be{tokenizer.eos_token}"
    split = tokenizer.encode(text, split_special_tokens=True)
    assert tokenizer.encode(text)[-1] == tokenizer.eos_token_id not in split
    assert tokenizer.decode(split) == text
    with pytest.raises(ValueError, match="`split_special_tokens` must be True or False"):
        tokenizer(text, split_special_tokens="yes")
    with pytest.raises(TypeError, match="add_prefix_space"):
        GPT2Tokenizer.from_tokenizer(word_level())("a", add_prefix_space=True)


def word_level():
    model = tokenizers.models.WordLevel({"a": 0, "b": 1, "<unk>": 2}, unk_token="<unk>")
    made = tokenizers.Tokenizer(model)
    made.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    return made


def test_special_tokens_that_are_text(tokenizer, tmp_path):
    """The setting is kept in files, copies and graphs; tokens that are not special stay whole."""
    tokenizer.add_tokens(["zzz"])
    text = f"To be zzz{tokenizer.eos_token}"
    whole = tokenizer.encode(text)
    tokenizer.split_special_tokens = True
    split = tokenizer.encode(text)
    zzz = tokenizer.convert_tokens_to_ids("zzz")
    assert split[: whole.index(zzz) + 1] == whole[:-1] and tokenizer.eos_token_id not in split
    for again in (copy.deepcopy(tokenizer), pickle.loads(pickle.dumps(tokenizer))):
        assert again.encode(text) == split
        assert again.encode(text, split_special_tokens=False) == whole
    assert tokenizer.encode(text) == split
    tokenizer.save_pretrained(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path).encode(text) == split
    layer = TFGPT2Tokenizer.from_pretrained(tmp_path)
    assert layer([text])["input_ids"].numpy().tolist() == [split]
    layer = TFGPT2Tokenizer.from_pretrained(tmp_path, split_special_tokens=False)
    assert layer([text])["input_ids"].numpy().tolist() == [whole]


def test_maps_of_special_tokens(tokenizer):
    tokenizer.add_special_tokens({"pad_token": tokenizers.AddedToken("<pad>", lstrip=True)})
    tokenizer.additional_special_tokens = ["<new>"]
    extended = tokenizer.special_tokens_map_extended
    assert extended["pad_token"].lstrip and not extended["eos_token"].lstrip
    assert [token.content for token in extended["additional_special_tokens"]] == ["<new>"]
    assert extended.keys() == tokenizer.special_tokens_map.keys()
    tokenizer.additional_special_tokens = None
    assert tokenizer.additional_special_tokens is None
    assert tokenizer.additional_special_tokens_ids == []
    tokenizer.add_special_tokens({"additional_special_tokens": ["<a>"]})
    assert tokenizer.additional_special_tokens == ["<a>"]


def test_a_tokenizer_of_ones_own(tokenizer, tmp_path):
    made = PreTrainedTokenizerFast(tokenizer_object=word_level(), unk_token="<unk>")
    assert made.encode("a b c") == [0, 1, 2] and made.is_fast
    file = tmp_path / "own.json"
    tokenizer.train_new_from_iterator(["low lower lowest"], 260).backend_tokenizer.save(str(file))
    made = AutoTokenizer.from_pretrained("shakespeare-tiny", tokenizer_file=file)
    assert made.encode("lower") == AutoTokenizer.from_pretrained(
        "shakespeare-tiny", tokenizer_file=str(file)
    ).encode("lower") != tokenizer.encode("lower")  # fmt: skip
    assert made.vocab_size <= 260 and made.eos_token == tokenizer.eos_token
    with pytest.raises(FileNotFoundError):
        AutoTokenizer.from_pretrained("shakespeare-tiny", tokenizer_file=tmp_path / "none.json")


ANSWERS = (
    "{% for m in messages %}{{ m.role }}: {% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content }}{% endgeneration %}{% else %}{{ m.content }}{% endif %};"
    "{% endfor %}"
)


@pytest.mark.parametrize("options", [{}, {"truncation": True, "max_length": 30}, {"padding": True}])
def test_masks_of_answers(tokenizer, options, tmp_path):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(
        to_oracle(tmp_path, transformers).name_or_path
    )
    theirs.pad_token = tokenizer.pad_token = tokenizer.eos_token
    more = {"chat_template": ANSWERS, "return_assistant_tokens_mask": True, "return_dict": True}
    chats = [CHAT, [*CHAT, {"role": "user", "content": "Who?"}, *CHAT]]
    for chat in (CHAT, chats):
        found = tokenizer.apply_chat_template(chat, **more, **options)
        assert dict(found) == dict(theirs.apply_chat_template(chat, **more, **options))
    masks = found["assistant_masks"]
    assert 0 < sum(masks[0]) < len(masks[0]) and sum(masks[1]) >= sum(masks[0])
    one = tokenizer.apply_chat_template(CHAT, **more, return_tensors="np")
    assert one["assistant_masks"].shape == one["input_ids"].shape == (1, one["input_ids"].size)
    for wrong, match in (({"return_dict": False}, "beside the ids"),
                         ({"continue_final_message": True}, "no whole answer")):  # fmt: skip
        with pytest.raises(ValueError, match=match):
            tokenizer.apply_chat_template(CHAT, **more | wrong)
