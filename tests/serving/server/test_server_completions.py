"""`/v1/completions` with OpenAI's Python client; invalid requests."""

import concurrent.futures
import json
import time

import httpx
import openai
import pytest

from tests.support.server_requests import MODEL, column_request, predict


@pytest.fixture(scope="module")
def client(served):
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="any", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def http(served):
    with httpx.Client(base_url=served.url, timeout=120) as client:
        yield client


def ask(client, prompt="ROMEO:\n", **options):
    options = {"max_tokens": 20, "temperature": 0} | options
    return client.completions.create(model=MODEL, prompt=prompt, **options)


def test_a_completion_is_a_call_of_generate(client, http):
    found = ask(client)
    outputs = predict(http, column_request("ROMEO:\n", max_new_tokens=20))
    assert found.choices[0].text == outputs["text"][0]
    assert found.choices[0].finish_reason == "length"
    assert found.object == "text_completion" and found.model == MODEL
    usage = found.usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (3, 20, 23)


def test_several_prompts_and_choices(client):
    found = ask(client, ["ROMEO:\n", "JULIET:\n"], n=2, temperature=1, seed=7).choices
    assert [one.index for one in found] == [0, 1, 2, 3]
    assert len({one.text for one in found}) == 4
    again = ask(client, ["ROMEO:\n", "JULIET:\n"], n=2, temperature=1, seed=7).choices
    assert [one.text for one in found] == [one.text for one in again]
    assert ask(client, temperature=1).choices[0].text != ask(client, temperature=1).choices[0].text


def test_best_of_returns_the_most_likely(client):
    best = ask(client, n=1, temperature=1.2, seed=3, logprobs=0, extra_body={"best_of": 4})
    every = ask(client, n=4, temperature=1.2, seed=3, logprobs=0).choices
    mean = lambda one: sum(one.logprobs.token_logprobs) / len(one.logprobs.tokens)  # noqa: E731
    assert best.choices[0].text == max(every, key=mean).text
    assert best.usage.completion_tokens == 80


def test_stop_and_echo(client):
    whole = ask(client, max_tokens=30).choices[0].text
    stop = whole[10:14]
    found = ask(client, max_tokens=30, stop=stop).choices[0]
    assert found.text == whole[: whole.index(stop)] and found.finish_reason == "stop"
    assert ask(client, echo=True).choices[0].text.startswith("ROMEO:\n")


def test_logprobs_belong_to_the_tokens(client, http):
    found = ask(client, logprobs=0).choices[0]
    outputs = predict(http, column_request("ROMEO:\n", max_new_tokens=20))
    assert "".join(found.logprobs.tokens) == found.text
    assert found.logprobs.token_logprobs == pytest.approx(outputs["token_logprobs"][0], abs=1e-4)
    offsets = found.logprobs.text_offset
    assert [found.text[o:][:1] for o in offsets] == [t[:1] for t in found.logprobs.tokens]
    assert found.logprobs.top_logprobs is None


def test_alternatives_and_logprobs_of_the_prompt(client):
    found = ask(client, "ROMEO:\nI am", logprobs=3, echo=True).choices[0].logprobs
    assert "".join(found.tokens[:8]).startswith("ROMEO:\nI am")
    assert found.token_logprobs[0] is None and found.top_logprobs[0] is None
    for token, value, top in list(
        zip(found.tokens, found.token_logprobs, found.top_logprobs, strict=True)
    )[-20:]:
        # Greedy: each token is the most likely one, with the very same log-probability.
        assert len(top) == 3 and max(top, key=top.get) == token and top[token] == value
    with pytest.raises(openai.BadRequestError, match="`logprobs` must be at most 5"):
        ask(client, logprobs=6)
    scored = ask(client, "To be, or not", max_tokens=0, logprobs=1, echo=True).choices[0]
    assert scored.text == "To be, or not" and len(scored.logprobs.tokens) == 5


def ids_of(http, text):
    return predict(http, {"signature_name": "tokenize", "inputs": [text]})["ids"][0]


def test_token_ids_as_prompt(client, http):
    ids = ids_of(http, "ROMEO:\n")
    assert ask(client, ids).choices[0].text == ask(client).choices[0].text
    assert len(ask(client, [ids, ids]).choices) == 2


def test_the_ids_of_a_prompt_are_those_that_are_read(client, http):
    """Another split of the same text; a special token."""
    text = "JULIET:\nRomeo"
    letters = [ids_of(http, letter)[0] for letter in text]
    assert len(letters) > len(ids_of(http, text))
    end = ids_of(http, "<|endoftext|>")
    for prompt, tokens in ((letters, list(text)), ([*end, *letters], ["<|endoftext|>", *text])):
        found = ask(client, prompt, max_tokens=3, logprobs=1, echo=True)
        logprobs = found.choices[0].logprobs
        assert logprobs.tokens[: len(prompt)] == tokens
        assert found.usage.prompt_tokens == len(prompt)
        assert found.choices[0].text.startswith(text)  # a special token is no text
        assert len(logprobs.tokens) == len(prompt) + 3
        starts = [0, *range(len(text))] if prompt[0] == end[0] else list(range(len(text)))
        assert logprobs.text_offset[: len(prompt)] == starts
        pieces = ask(client, prompt, max_tokens=30, stream=True)
        whole = ask(client, prompt, max_tokens=30).choices[0].text
        assert "".join(piece.choices[0].text for piece in pieces) == whole


def test_the_token_itself_is_among_its_alternatives(client):
    found = ask(client, "zzzz qqqq", max_tokens=0, logprobs=1, echo=True).choices[0].logprobs
    unlikely = 0
    for token, value, top in zip(
        found.tokens[1:], found.token_logprobs[1:], found.top_logprobs[1:], strict=True
    ):
        assert top[token] == value <= max(top.values())
        unlikely += len(top) == 2
    assert unlikely > 2


@pytest.mark.long
def test_an_end_token_is_a_token_of_the_completion(client):
    """A model with this start ends soon; its end token has a place and no text."""
    end = "<|endoftext|>"
    found = ask(client, temperature=1.0, max_tokens=200, logprobs=0, n=16, seed=3)
    ended = [one for one in found.choices if one.finish_reason == "stop"]
    for one in ended:
        assert one.logprobs.tokens[-1] == end and end not in one.text
    assert sum(len(one.logprobs.tokens) for one in found.choices) == found.usage.completion_tokens


def test_seeds_of_neighbours_are_other_draws(client):
    one = [c.text for c in ask(client, temperature=1, n=3, seed=1).choices]
    two = [c.text for c in ask(client, temperature=1, n=3, seed=2).choices]
    assert not set(one) & set(two)
    assert [ask(client, temperature=1, seed=1).choices[0].text] == one[:1]


@pytest.mark.parametrize("fields", [
    {"metadata": {"a": "b"}, "store": False, "stop": "", "logprobs": False, "top_k": -1},
    {"max_completion_tokens": 20, "max_tokens": None},
    {"stop_token_ids": [], "skip_special_tokens": True, "add_special_tokens": False},
    {"length_penalty": 1.0, "use_beam_search": False, "ignore_eos": False, "min_tokens": 0},
])  # fmt: skip
def test_fields_that_ask_for_nothing(http, fields):
    body = {"model": MODEL, "prompt": "ROMEO:\n", "max_tokens": 20, "temperature": 0}
    expected, found = (http.post("/v1/completions", json=one) for one in (body, body | fields))
    assert found.status_code == 200, found.text
    assert found.json()["choices"] == expected.json()["choices"]


def test_no_limit_is_that_of_the_server_and_ends_may_be_ignored(client):
    found = ask(client, max_tokens=-1, stop="\n\n").choices[0]
    assert found.finish_reason == "stop"
    ignored = ask(client, temperature=1.0, max_tokens=60, seed=1, extra_body={"ignore_eos": True})
    assert ignored.usage.completion_tokens == 60


def test_usage_in_each_chunk(client):
    options = {"include_usage": True, "continuous_usage_stats": True, "include_obfuscation": False}
    events = list(ask(client, max_tokens=30, stream=True, stream_options=options))
    counts = [event.usage.completion_tokens for event in events]
    assert counts == sorted(counts) and counts[-1] == 30 and len(counts) > 2


def test_tokens_and_texts(http):
    ids = ids_of(http, "To be, or")
    answer = http.post("/tokenize", json={"model": MODEL, "prompt": "To be, or"})
    assert answer.json() == {"tokens": ids, "count": len(ids)}
    assert http.post("/detokenize", json={"tokens": ids}).json() == {"prompt": "To be, or"}
    assert http.post("/detokenize", json={"tokens": []}).json() == {"prompt": ""}
    for path, body, word in (
        ("/tokenize", {"prompt": 5}, "a string"), ("/tokenize", {}, "provide a prompt"),
        ("/detokenize", {"tokens": "5"}, "token ids"), ("/detokenize", {"tokens": [-1]}, "ids"),
        ("/tokenize", {"model": "x", "prompt": ""}, "does not exist"),
    ):  # fmt: skip
        answer = http.post(path, json=body)
        assert answer.status_code in (400, 404) and word in answer.json()["error"]["message"]


def test_paths_that_tools_probe(http):
    assert http.get("/health").status_code == 200
    info = http.get("/tokenizer_info").json()
    assert info["eos_token"] == info["bos_token"] == "<|endoftext|>" and info["pad_token"] is None
    assert "message.role" in info["chat_template"]  # the plain one
    assert http.get("/tokenizer_info?model=none").status_code == 404
    for method, path in (("POST", "/v1/embeddings"), ("GET", "/v1/completions"),
                         ("GET", "/v1/nothing")):  # fmt: skip
        answer = http.request(method, path)
        assert answer.status_code == 404
        assert answer.json()["error"]["type"] == "invalid_request_error"
    assert isinstance(http.get("/v1/models/none").json()["error"], str)  # TensorFlow Serving's


def test_a_stream_is_the_text_in_chunks(client):
    whole = ask(client, max_tokens=60).choices[0]
    events = list(ask(client, max_tokens=60, stream=True, stream_options={"include_usage": True}))
    texts = [event.choices[0].text for event in events if event.choices]
    assert "".join(texts) == whole.text and len(texts) > 3
    reasons = [event.choices[0].finish_reason for event in events if event.choices]
    assert reasons == [None] * (len(reasons) - 1) + ["length"]
    assert events[-1].choices == [] and events[-1].usage.completion_tokens == 60
    assert len({event.id for event in events}) == 1


@pytest.mark.parametrize("stop", ["t n", [".\n", "thee"], "e"])
def test_a_stream_ends_before_a_stop_string(client, stop):
    whole = ask(client, max_tokens=40, stop=stop).choices[0]
    pieces = [event.choices[0] for event in ask(client, max_tokens=40, stop=stop, stream=True)]
    assert "".join(piece.text for piece in pieces) == whole.text
    assert pieces[-1].finish_reason == whole.finish_reason


def test_streams_with_several_choices(client):
    texts = {}
    for event in ask(client, ["ROMEO:\n", "JULIET:\n"], n=2, temperature=1, seed=1, stream=True):
        choice = event.choices[0]
        texts[choice.index] = texts.get(choice.index, "") + choice.text
    assert sorted(texts) == [0, 1, 2, 3] and len(set(texts.values())) == 4


@pytest.mark.parametrize("options", [
    {"logprobs": 0},
    {"logprobs": 2, "echo": True, "stop": "e"},
    {"temperature": 1.0, "seed": 5, "top_p": 0.9, "extra_body": {"repetition_penalty": 1.3}},
])  # fmt: skip
def test_a_stream_is_the_request_that_is_not_streamed(client, options):
    whole = ask(client, "O Romeo", max_tokens=30, **options).choices[0]
    events = [
        event.choices[0] for event in ask(client, "O Romeo", max_tokens=30, stream=True, **options)
    ]
    assert "".join(event.text for event in events) == whole.text
    assert events[-1].finish_reason == whole.finish_reason
    if whole.logprobs is None:
        assert len(events) == 4
        return
    joined = {name: [] for name in ("tokens", "token_logprobs", "text_offset", "top_logprobs")}
    for event in events:
        for name, values in joined.items():
            values += getattr(event.logprobs, name) or []
    assert joined["tokens"] == whole.logprobs.tokens
    assert joined["text_offset"] == whole.logprobs.text_offset
    assert joined["token_logprobs"][1:] == pytest.approx(
        whole.logprobs.token_logprobs[1:], abs=1e-5
    )
    expected = whole.logprobs.top_logprobs or []
    assert len(joined["top_logprobs"]) == len(expected)
    for one, other in list(zip(joined["top_logprobs"], expected, strict=True))[1:]:
        assert one == pytest.approx(other, abs=1e-5)


@pytest.mark.long
def test_without_the_engine(client, exported, start_server):
    """The way of older exports: the same texts, and greedy streams of them."""
    url = start_server(exported, "--no-engine").url
    other = openai.OpenAI(base_url=f"{url}/v1", api_key="none")
    for options in ({}, {"temperature": 1.0, "seed": 5}, {"stop": "e"}):
        assert ask(other, **options).choices[0].text == ask(client, **options).choices[0].text
    pieces = [event.choices[0].text for event in ask(other, max_tokens=30, stream=True)]
    assert "".join(pieces) == ask(client, max_tokens=30).choices[0].text
    for options in ({"logprobs": 0}, {"echo": True}):
        with pytest.raises(openai.BadRequestError, match="streamed by the engine only"):
            ask(other, stream=True, **options)


@pytest.mark.long
def test_concurrent_streams_are_independent(client):
    prompts = ["ROMEO:\n", "JULIET:\n", "To be", "Now is the winter", "KING:\n", "What"]
    alone = [ask(client, prompt, max_tokens=30).choices[0].text for prompt in prompts]

    def read(prompt):
        events = ask(client, prompt, max_tokens=30, stream=True)
        return "".join(event.choices[0].text for event in events)

    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        assert list(pool.map(read, prompts)) == alone


def test_a_disconnect_ends_the_stream(http):
    def tokens():
        page = http.get("/metrics").text
        name = "tfgpt2_generated_tokens_total"
        return float(next(li for li in page.splitlines() if li.startswith(name)).split()[-1])

    body = {"model": MODEL, "prompt": "ROMEO:\n", "max_tokens": 4000, "stream": True}
    start = tokens()
    with http.stream("POST", "/v1/completions", json=body | {"ignore_eos": True}) as answer:
        next(answer.iter_lines())
    time.sleep(1.0)  # a round that was running may finish
    before = tokens()
    time.sleep(1.0)
    assert tokens() == before < start + 150  # of 250 that fit the context


@pytest.mark.parametrize(
    ("changed", "param", "words"),
    [
        ({"prompt": None}, "prompt", "must provide a prompt"),
        ({"model": None}, "model", "must provide a model"),
        ({"prompt": []}, "prompt", "must be a string"),
        ({"prompt": ["a", 1]}, "prompt", "must be a string"),
        ({"prompt": ["a"] * 65, "n": 2}, "prompt", "may ask for 128 texts"),
        ({"prompt": [-1]}, "prompt", "must be a string"),
        ({"prompt": "\ud800"}, "prompt", "valid Unicode"),
        ({"max_tokens": -2}, "max_tokens", "must be an integer in [0"),
        ({"max_tokens": "5"}, "max_tokens", "must be an integer"),
        ({"max_tokens": 5000}, "max_tokens", "at most 4096 on this server"),
        ({"temperature": -1}, "temperature", "must be a number in [0"),
        ({"temperature": float("nan")}, "temperature", "must be a number"),
        ({"top_p": 1.5}, "top_p", "must be a number in [0, 1]"),
        ({"n": 0}, "n", "must be an integer in [1, 128]"),
        ({"n": 3, "best_of": 2}, "best_of", "at least `n`"),
        ({"stop": ["a" * 257]}, "stop", "strings of 256 bytes"),
        ({"stop_token_ids": [5]}, "stop_token_ids", "not supported"),
        ({"length_penalty": 2.0}, "length_penalty", "not supported"),
        ({"prompt": [[1], []]}, "prompt", "must be a string"),
        ({"prompt": [10**6]}, "prompt", "a token that the model does not have"),
        ({"stop": 5}, "stop", "a string or a list"),
        ({"logprobs": True}, "logprobs", "must be an integer"),
        ({"stream": 1}, "stream", "true or false"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "needs `stream`"),
        ({"suffix": "x"}, "suffix", "not supported"),
        ({"logit_bias": {"x": 1}}, "logit_bias", "from token ids to numbers"),
        ({"logit_bias": [5]}, "logit_bias", "from token ids to numbers"),
        ({"logit_bias": {"5": 101}}, "logit_bias.5", "a number in [-100, 100]"),
        ({"logit_bias": {str(one): 1 for one in range(1025)}}, "logit_bias", "at most 1024"),
        ({"logit_bias": {"999999": 1}}, "prompt", "a token that the model does not have"),
        ({"temprature": 1}, "temprature", "Did you mean 'temperature'?"),
    ],
)
def test_errors_have_openais_format(http, changed, param, words):
    body = {"model": MODEL, "prompt": "a", "max_tokens": 2} | changed
    answer = http.post("/v1/completions", content=json.dumps(body))
    error = answer.json()["error"]
    assert answer.status_code == 400 and error["type"] == "invalid_request_error"
    assert error["param"] == param and words in error["message"]


def test_penalties_and_biases_need_no_special_export(client, http):
    free = ask(client, logprobs=0).choices[0]
    often = max(free.logprobs.tokens, key=free.logprobs.tokens.count)
    for options in ({"presence_penalty": 2.0}, {"frequency_penalty": 2.0}):
        assert ask(client, **options).choices[0].text != free.text
        assert ask(client, **dict.fromkeys(options, 0.0)).choices[0].text == free.text
    (token,) = ids_of(http, often)
    never = ask(client, logit_bias={str(token): -100}, logprobs=0).choices[0]
    assert often not in never.logprobs.tokens
    always = ask(client, logit_bias={str(token): 100}, logprobs=0).choices[0]
    assert set(always.logprobs.tokens) == {often}


def test_an_unknown_model_and_the_list(client):
    with pytest.raises(openai.NotFoundError, match="The model `x` does not exist") as caught:
        client.completions.create(model="x", prompt="a")
    assert caught.value.code == "model_not_found"
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).id == MODEL


def test_a_body_that_is_not_json(http):
    for content in (b"", b"{", b"[]", b"\xff"):
        answer = http.post("/v1/completions", content=content)
        assert answer.status_code == 400 and "JSON" in answer.json()["error"]["message"]
