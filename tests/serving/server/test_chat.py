"""`/v1/chat/completions`: templates, answers, streams and errors."""

import json

import httpx
import openai
import pytest

from tests.support.server_requests import MODEL
from tfgpt2.serving.chat_files import TOKENS_FILE, read_chat_files, write_chat_files
from tfgpt2.serving.server import chat_request
from tfgpt2.serving.server.serving_error import ServingError
from tfgpt2.serving.server.settings import ServerSettings

TALK = [{"role": "system", "content": "A play."}, {"role": "user", "content": "Who is there?"}]
TEXT = "system: A play.\nuser: Who is there?\nassistant:"


@pytest.fixture(scope="module")
def client(served):
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="any", max_retries=0) as client:
        yield client


def chat(client, messages=TALK, **options):
    options = {"max_tokens": 20, "temperature": 0} | options
    return client.chat.completions.create(model=MODEL, messages=messages, **options)


def test_a_chat_is_a_completion_of_its_text(client):
    found = chat(client, logprobs=True, top_logprobs=2)
    stop = ["\nuser:", "\nsystem:", "\nassistant:"]
    expected = client.completions.create(
        model=MODEL, prompt=TEXT, max_tokens=20, temperature=0, stop=stop, logprobs=2
    )
    (choice,), (plain,) = found.choices, expected.choices
    assert (choice.message.role, choice.message.content) == ("assistant", plain.text)
    assert (found.object, choice.finish_reason) == ("chat.completion", plain.finish_reason)
    assert found.usage == expected.usage
    tokens = choice.logprobs.content
    assert [one.token for one in tokens] == plain.logprobs.tokens
    assert [one.logprob for one in tokens] == plain.logprobs.token_logprobs
    assert b"".join(bytes(one.bytes) for one in tokens).decode() == plain.text
    likeliest = [{top.token: top.logprob for top in one.top_logprobs} for one in tokens]
    assert likeliest == plain.logprobs.top_logprobs


def test_a_stream_begins_with_the_role(client):
    events = list(chat(client, stream=True, stream_options={"include_usage": True}))
    deltas = [event.choices[0].delta for event in events if event.choices]
    assert [delta.role for delta in deltas] == ["assistant", *[None] * (len(deltas) - 1)]
    whole = chat(client).choices[0].message.content
    assert "".join(delta.content or "" for delta in deltas) == whole
    assert {event.object for event in events} == {"chat.completion.chunk"}
    assert events[-1].usage.completion_tokens == 20


def test_several_messages(client):
    found = chat(client, n=3, temperature=1, seed=4).choices
    assert [one.index for one in found] == [0, 1, 2]
    assert len({one.message.content for one in found}) == 3


def parse(template=None, **fields):
    templates = {} if template is None else {"default": template}
    return chat_request.parse({"model": "m", "messages": TALK} | fields, templates)


def test_the_text_of_a_conversation():
    plain = parse(stop="x")
    assert plain.prompts == (TEXT,) and plain.max_tokens == -1
    assert plain.stop == ("x", "\nuser:", "\nsystem:", "\nassistant:")
    template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    found = parse(template, max_completion_tokens=5)
    assert found.prompts == ("<system>A play.<user>Who is there?",)
    assert (found.stop, found.max_tokens) == ((), 5)
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert parse(messages=[{"role": "user", "content": parts}]).prompts[0].startswith("user: ab")
    assert len(parse(stop=["a"] * 61 + [""]).stop) == len(parse("x", stop=["a"] * 64).stop) == 64
    nothing = {"echo": False, "best_of": 1, "suffix": "", "tools": [], "modalities": ["text"],
               "response_format": {"type": "text"}, "parallel_tool_calls": False,
               "metadata": {}, "logprobs": False}  # fmt: skip
    assert parse(**nothing) == parse()


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"messages": None}, "messages", "must provide a messages"),
        ({"messages": []}, "messages", "list of objects"),
        ({"messages": "hi"}, "messages", "list of objects"),
        ({"messages": [{"role": "user"}]}, "messages", "must be a string"),
        ({"messages": [{"content": "a"}]}, "messages", "list of objects"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages", "texts"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "messages", "valid Unicode"),
        ({"tools": [{"type": "function"}]}, "tools", "not supported"),
        ({"response_format": {"type": "json_object"}}, "response_format", "not supported"),
        ({"prompt": "a"}, "prompt", "not a field of chats"),
        ({"echo": True}, "echo", "not a field of chats"),
        ({"chat_template": "{{ 1 }}"}, "chat_template", "has no chat templates"),
        ({"logprobs": 3}, "logprobs", "true or false"),
        ({"top_logprobs": 3}, "top_logprobs", "needs `logprobs`"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "in [0, 20]"),
        ({"stop": 5}, "stop", "a string or a list"),
        ({"stop": ["a"] * 62}, "stop", "at most 61 strings"),  # the template has three
        ({"max_completion_tokens": -2}, "max_completion_tokens", "must be an integer"),
        ({"temperature": -1}, "temperature", "must be a number"),
        ({"temprature": 1}, "temprature", "Did you mean 'temperature'?"),
    ],
)
def test_errors(fields, param, words):
    with pytest.raises(ServingError) as caught:
        parse(**fields)
    error = caught.value
    assert (error.http, error.param) == (400, param) and words in error.message


@pytest.mark.parametrize("template", ["{{ messages[", "{{ raise_exception('no system') }}"])
def test_a_template_that_fails_is_an_error_of_the_request(template):
    with pytest.raises(ServingError, match="The chat template fails") as caught:
        parse(template)
    assert caught.value.http == 400


def test_a_template_cannot_leave_its_sandbox():
    with pytest.raises(ServingError, match="The chat template fails"):
        parse("{{ messages.append(1) }}")


def test_errors_have_openais_format(served):
    answer = httpx.post(f"{served.url}/v1/chat/completions", content=json.dumps({"model": MODEL}))
    assert answer.status_code == 400 and answer.json()["error"]["param"] == "messages"
    body = {"model": "none", "messages": TALK}
    answer = httpx.post(f"{served.url}/v1/chat/completions", json=body)
    assert answer.status_code == 404 and answer.json()["error"]["code"] == "model_not_found"


@pytest.mark.long
def test_a_file_is_the_template_and_chats_can_be_off(exported, start_server, tmp_path):
    path = tmp_path / "talk.jinja"
    path.write_text("{% for m in messages %}{{ m.role | upper }}:\n{{ m.content }}\n{% endfor %}")
    body = {"model": MODEL, "messages": TALK, "max_tokens": 4, "temperature": 0}
    answers = {}
    for setting in (str(path), "none"):
        server = start_server(exported, "--chat-template", setting)
        answers[setting] = httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=120)
        server.terminate()
    found = answers[str(path)].json()
    assert found["usage"]["prompt_tokens"] > 4 and found["choices"][0]["message"]["content"]
    assert answers["none"].status_code == 400
    assert "has no chats" in answers["none"].json()["error"]["message"]


def test_a_missing_template_is_an_error_at_the_start(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such chat template.*Received"):
        ServerSettings(models={"m": tmp_path}, chat_template=str(tmp_path / "x"))


def test_templates_name_special_tokens(tmp_path):
    template = "{{ messages[0].content }}{{ eos_token }}"
    write_chat_files(tmp_path, template, {"eos_token": "<|end|>"})
    files = read_chat_files(tmp_path)
    assert files == ({"default": template}, {"eos_token": "<|end|>"})
    request = chat_request.parse({"model": MODEL, "messages": TALK[1:]}, *files)
    assert request.prompts == ("Who is there?<|end|>",)
    for damaged, words in (("[1]", "found a list"), ("{", "valid"), ('{"a": 1}', "of texts")):
        (tmp_path / TOKENS_FILE).write_text(damaged)
        with pytest.raises(ValueError, match=f"{words}.*Received: "):
            read_chat_files(tmp_path)


@pytest.mark.parametrize("named", [{"default": "d", "rag": "r"}, {"tool_use": "t", "rag": "r"}])
def test_several_templates(named, tmp_path):
    """A request names one; without a name it is the default, as in transformers."""
    write_chat_files(tmp_path, named, {})
    files = read_chat_files(tmp_path)
    assert files == (named, {})
    document = {"model": MODEL, "messages": TALK}
    found = chat_request.parse(document | {"chat_template": "rag"}, *files)
    assert (found.prompts, found.stop) == (("r",), ())
    if "default" in named:
        assert chat_request.parse(document, *files).prompts == ("d",)
    else:
        assert_refused(document, files, "none is called 'default'.*: 'rag', 'tool_use'")
    for wrong in ("other", "{{ messages }}", 3):  # nor does the server run a client's template
        assert_refused(document | {"chat_template": wrong}, files, "must be the name of.*'rag'")


def assert_refused(document, files, words):
    with pytest.raises(ServingError, match=f"(?s){words}") as caught:
        chat_request.parse(document, *files)
    assert (caught.value.http, caught.value.param) == (400, "chat_template")


def test_the_name_of_a_template_is_no_path(tmp_path):
    with pytest.raises(ValueError, match="without a folder"):
        write_chat_files(tmp_path, {"../escape": "x"}, {})
