"""The `.litertlm` file: what it says, and what it refuses; the tools run in another file."""

import sys
import zlib
from unittest.mock import create_autospec

import pytest
import tokenizers
from typer.testing import CliRunner

from tests.support import toy_text
from tfgpt2 import GenerationConfig, TextGenerator, extras
from tfgpt2.chat_template import render
from tfgpt2.cli.main import app
from tfgpt2.generation.written_text import TokenTexts
from tfgpt2.litert import converter, litert_lm
from tfgpt2.litert.export import make_contract

CHAT = [
    {"role": "user", "content": [{"type": "text", "text": "é "}, {"type": "text", "text": "b"}]},
    {"role": "assistant", "content": "c\n"},
]
TEXTS = [{"role": "user", "content": "é b"}, {"role": "assistant", "content": "c\n"}]


@pytest.fixture
def builder():
    return pytest.importorskip("litert_lm_builder")


def metadata(generator, context=8, template=None, special=None):
    contract = make_contract(generator, None, 1, context, None)
    config = generator.generation_config.to_dict()
    litert_lm.check_contract(contract, config)
    return litert_lm.metadata(contract, config, template, special or {})


def with_config(live, **values):
    config = GenerationConfig(eos_token_id=values.pop("eos_token_id", None), **values)
    return TextGenerator(live.model, live.tokenizer, config)


def test_greedy_metadata(builder, live):
    found = metadata(with_config(live, eos_token_id=[3, 5]))
    assert [list(one.token_ids.ids) for one in found.stop_tokens] == [[3], [5]]
    assert found.max_num_tokens == 8 and not found.HasField("start_token")
    sampler = found.sampler_params
    assert (sampler.type, sampler.k, sampler.p, sampler.temperature) == (sampler.TOP_P, 1, 1, 1)
    assert found.llm_model_type.HasField("generic_model")


@pytest.mark.parametrize(("top_k", "k"), [(0, toy_text.tokenizer().vocab_size + 3), (7, 7)])
def test_sampling_metadata(builder, live, top_k, k):
    generator = with_config(live, do_sample=True, temperature=0.5, top_p=0.75, top_k=top_k)
    sampler = metadata(generator).sampler_params
    assert (sampler.type, sampler.k) == (sampler.TOP_P, k)
    assert (sampler.p, sampler.temperature) == (0.75, 0.5)


def test_a_model_without_end_tokens_gets_one_that_it_never_writes(builder, live):
    config = GenerationConfig()
    generator = TextGenerator(live.model, live.tokenizer, config)
    contract = make_contract(generator, None, 1, 8, None)
    assert contract.eos_token_ids == ()
    found = litert_lm.metadata(contract, config.to_dict(), None, {})
    assert [list(one.token_ids.ids) for one in found.stop_tokens] == [[contract.vocab_size]]


def test_the_token_before_every_text(builder, live):
    tokens = toy_text.tokenizer(add_bos_token=True)
    found = metadata(TextGenerator(live.model, tokens))
    assert list(found.start_token.token_ids.ids) == [tokens.bos_token_id]


@pytest.mark.parametrize(
    "template",
    [
        None,
        "{{ messages[0]['content'] + eos_token }}",
        "\n  {% for m in messages %}\n{{ m.role }}: {{ m.content }}\n  {% endfor %}\nBot:",
        "{% if add_generation_prompt %}{{ messages | length }}{% endif %}",
    ],
    ids=["none", "plus", "blocks", "variables"],
)
def test_templates_get_texts_and_special_tokens(template):
    """LiteRT-LM gives lists and no tokens; the result is that of the template alone for texts."""
    special = {"eos_token": '<"\\é>'}
    plain = "{% for m in messages %}{{ m.content }}{% endfor %}" if template is None else template
    expected = render(plain, TEXTS, add_generation_prompt=True, **special)
    found = render(litert_lm.chat_template(template, special), CHAT, add_generation_prompt=True)
    assert found == expected


@pytest.mark.parametrize(
    "values",
    [
        {"repetition_penalty": 1.2},
        {"do_sample": True, "min_p": 0.1},
        {"min_new_tokens": 3},
        {"stop_strings": ["\n\n"]},
    ],
    ids=lambda values: [*values][-1],
)
def test_defaults_that_such_a_file_does_not_have_raise(live, tmp_path, monkeypatch, values):
    monkeypatch.setattr(litert_lm, "import_builder", lambda: None)
    name = [*values][-1]
    with pytest.raises(ValueError, match=f"no default for `{name}`"):
        with_config(live, **values).export_litertlm(tmp_path / "x.litertlm")
    assert not any(tmp_path.iterdir())


def test_two_tokens_before_every_text_raise(live):
    end = "<|endoftext|>"
    tokens = toy_text.tokenizer(template={"prefix": [end, end]})
    with pytest.raises(ValueError, match="at most one token before a text"):
        metadata(TextGenerator(live.model, tokens))


def test_decoders_that_join_tokens_in_their_own_way_raise():
    plain = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "b": 1}, "a"))
    texts = TokenTexts((b"a", b"b"), frozenset())
    with pytest.raises(ValueError, match="LiteRT-LM would write other texts"):
        litert_lm.check_texts(plain, texts)  # puts spaces between the tokens
    live = toy_text.tokenizer()
    spec, pipeline = live.spec, toy_text.generator().pipeline
    litert_lm.check_texts(spec.backend(), pipeline.token_texts)


def test_names_and_paths(live, tmp_path):
    with pytest.raises(ValueError, match="must end in .litertlm"):
        live.export_litertlm(tmp_path / "x")
    path = tmp_path / "x.litertlm"
    path.write_text("something")
    with pytest.raises(FileExistsError, match="never overwrites"):
        live.export_litertlm(path)


def test_without_the_extra(live, tmp_path, monkeypatch):
    monkeypatch.setattr(extras, "_is_installed", lambda name: name != "litert_lm_builder")
    match = r"litert_lm_builder, which is not installed.*pip install 'tfgpt2\[litertlm\]'"
    with pytest.raises(ImportError, match=match):
        live.export_litertlm(tmp_path / "x.litertlm")
    command = ["export", str(tmp_path / "x.litertlm"), "--format", "litertlm", "--model", "no/such"]
    result = CliRunner().invoke(app, command)
    assert isinstance(result.exception, ImportError)  # before the model is looked for
    monkeypatch.setattr(extras, "_is_installed", lambda name: True)
    monkeypatch.setitem(sys.modules, "litert_lm_builder", None)
    with pytest.raises(ImportError, match="does not work in this environment.*protobuf"):
        live.export_litertlm(tmp_path / "x.litertlm")


def test_the_file_holds_model_tokenizer_and_metadata(builder, live, tmp_path, monkeypatch, capsys):
    data = bytes(range(256)) * 100
    monkeypatch.setattr(converter, "make_functions", lambda *_, score: {"decode": score})
    convert = create_autospec(converter.convert, return_value=data)  # with its parameters
    monkeypatch.setattr(converter, "convert", convert)
    path = tmp_path / "models" / "x.litertlm"
    report = live.export_litertlm(path, context=8, check=False)
    assert [*path.parent.iterdir()] == [path] and report.path == path
    assert report.megabytes == path.stat().st_size / 1e6 and report.signatures == ("decode",)
    builder.unpack(str(path), str(tmp_path / "unpacked"))
    capsys.readouterr()
    files = {one.name: one.read_bytes() for one in (tmp_path / "unpacked").rglob("*.*")}
    assert data in files.values()
    (packed,) = (content for name, content in files.items() if name.endswith(".zlib"))
    assert zlib.decompress(packed[8:]).decode() == live.tokenizer.spec.backend().to_str() + "\n"


def test_options_of_other_formats_raise(tmp_path):
    for option in ("--batch-size", "--max-new-tokens"):
        command = ["export", str(tmp_path / "x.litertlm"), "--format", "litertlm", option, "2"]
        result = CliRunner().invoke(app, command)
        assert isinstance(result.exception, ValueError) and option in str(result.exception)
