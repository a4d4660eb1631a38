"""The playground with a server that streams: suggestions come as they are written."""

import json

import pytest
from starlette.responses import JSONResponse, Response

from tests.support.playground_stub import MODEL, WORDS, StubServer

pytest.importorskip("selenium", reason="selenium is not installed")
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

from tests.support.playground_page import Page  # noqa: E402


@pytest.fixture
def streaming(chrome):
    """A page whose server streams, and that server."""
    server = StubServer(signatures=("generate", "inspect", "engine_start"))
    chrome.set_window_size(1200, 900)
    opened = Page(chrome, server.url)
    chrome.execute_script("localStorage.clear(); sessionStorage.clear()")
    chrome.refresh()
    opened.ready()["seed"].send_keys("0")
    opened["text"].click()
    yield opened, server
    server.stop()


def words_of(page):
    return [option.find_element(By.CLASS_NAME, "words").text for option in page.options]


def test_suggestions_come_as_they_are_written(streaming):
    page, stub = streaming
    page.type("To be, ", Keys.TAB)
    halves = [words[: len(words) // 2].strip() for words in WORDS[:3]]
    page.until(lambda: [words.strip() for words in words_of(page)] == halves)
    assert page["took"].text == "Generating …" and not page["more"].is_displayed()
    sent = [request for request in stub.requests if request["seed"] == 1][0]
    assert sent == {
        "model": MODEL, "prompt": "To be, ", "stream": True, "logprobs": 0, "max_tokens": 24,
        "min_tokens": 0, "temperature": 0.8, "top_k": 0, "top_p": 0.95, "min_p": 0,
        "repetition_penalty": 1, "seed": 1}  # fmt: skip
    page.type(Keys.ARROW_DOWN)
    stub.second_half.set()
    page.until(lambda: page["more"].is_displayed())
    assert words_of(page) == [WORDS[0], " whether 'tis ↵ nobler", WORDS[2]]
    chosen = [option.get_attribute("aria-selected") for option in page.options]
    assert chosen == ["false", "true", "false"]
    shown = [option.find_element(By.CLASS_NAME, "chance").text for option in page.options]
    assert shown == ["37 %\nseed 0", "37 %\nseed 1", "37 %\nseed 2"]
    page.type(Keys.ENTER)
    assert page.value == "To be, " + WORDS[1]
    assert not page.errors()


def test_half_a_suggestion_can_be_accepted(streaming):
    page, stub = streaming
    page.type("a", Keys.TAB)
    page.until(lambda: len(page.options) == 3)
    first = words_of(page)[0]
    page.type("1")
    assert page.value.startswith("a ") and page.value[1:].strip() == first.strip()
    assert not page["popover"].is_displayed()
    page.until(lambda: stub.left == 3, "the streams go on")
    assert not page.errors()


def test_continue_writes_into_the_text(streaming):
    page, stub = streaming
    page.type("To be")
    page["continue"].click()
    half = WORDS[0][: len(WORDS[0]) // 2]
    page.until(lambda: page.value == "To be" + half)
    stub.second_half.set()
    page.until(lambda: page.value == "To be" + WORDS[0])
    page.until(lambda: page["continue"].text == "Continue")
    page["undo"].click()
    assert page.value == "To be"
    assert not page.errors()


def test_a_server_that_does_not_stream_after_all(streaming):
    page, stub = streaming
    stub.stream_answer = refusal("no engine")
    page.type("a")
    assert page.suggestions()[0] == WORDS[0]
    assert [is_stream(one) for one in stub.requests] == [True] * 3 + [False]
    page["more"].click()  # it is not asked for streams again
    page.until(lambda: len(stub.requests) == 5 and page.options)
    assert not is_stream(stub.requests[-1])


def test_a_refused_request_says_nothing_about_streams(streaming):
    page, stub = streaming
    stub.answer = refusal("the prompt is too long")
    page.type("a", Keys.TAB)
    page.until(lambda: page["banner"].is_displayed())
    assert page["detail"].text == "the prompt is too long" and not is_stream(stub.requests[-1])
    stub.answer = None
    page["retry"].click()
    page.until(lambda: len(page.options) == 3)
    assert is_stream(stub.requests[-1])


def refusal(message):
    return JSONResponse({"error": {"message": message, "param": "prompt"}}, 400)


def is_stream(request):
    return request.get("stream", False)


def test_an_error_in_a_stream_is_shown(streaming):
    page, stub = streaming
    event = json.dumps({"error": {"message": "It ran out."}})
    stub.answer = Response(f"data: {event}\n\n", media_type="text/event-stream")
    page.type("a", Keys.TAB)
    page.until(lambda: page["banner"].is_displayed())
    assert page["trouble"].text == "The server stopped writing."
    assert page["detail"].text == "It ran out." and not page["popover"].is_displayed()
