"""The playground in a browser: suggestions, tinting, settings, errors of the server."""

import re
import shutil
import subprocess

import pytest
from starlette.responses import JSONResponse

from tests.support.playground_stub import MODEL, PAGE, WORDS, StubServer

pytest.importorskip("selenium", reason="selenium is not installed")
from selenium.webdriver.common.action_chains import ActionChains  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

from tests.support.playground_page import Page  # noqa: E402


@pytest.fixture
def stub():
    server = StubServer()
    yield server
    server.stop()


@pytest.fixture
def page(chrome, stub):
    chrome.set_window_size(1200, 900)
    opened = Page(chrome, stub.url)
    chrome.execute_script("localStorage.clear(); sessionStorage.clear()")
    chrome.refresh()
    return opened.ready()


def test_the_page_is_one_file_without_other_addresses():
    text = PAGE.read_text()
    assert text.count("<script>") == text.count("<style>") == 1
    assert not re.search(r"""\son\w+=["']|\sstyle=["']|innerHTML|eval\(|https?://|//cdn""", text)
    assert not re.search(r"""<(script|link|img|iframe)[^>]+(src|href)=["'](?!data:,)""", text)


def test_write_ask_and_accept(page, stub):
    assert page.focused == "text"
    page.type("To be, ")
    assert page.suggestions() == [WORDS[0], " whether 'tis ↵ nobler", WORDS[2]]
    sent = stub.requests[0]
    assert sent["signature_name"] == "generate" and sent["inputs"]["text"] == ["To be, "] * 3
    assert len(set(sent["inputs"]["seed"])) == 3
    settings = {k: v for k, v in sent["inputs"].items() if k not in ("text", "seed")}
    assert settings == {
        "max_new_tokens": [24], "min_new_tokens": [0], "temperature": [0.8], "top_k": [0],
        "top_p": [0.95], "min_p": [0], "repetition_penalty": [1], "stop": [[""]]}  # fmt: skip
    page.type("2")
    assert page.value == "To be, " + WORDS[1] and not page["popover"].is_displayed()
    page.type("!")  # the caret is after the suggestion
    assert page.value.endswith("nobler!")
    page["undo"].click()
    page["undo"].click()
    assert page.value == "To be, " and page.focused == "text"
    assert not page.errors()


@pytest.mark.long
def test_the_keyboard_is_enough(page):
    page.type("a")
    page.suggestions()
    assert page["text"].get_attribute("aria-activedescendant") == "option-0"
    assert page["live"].get_property("textContent").startswith(f"3 suggestions. 1: {WORDS[0]}")
    page.type(Keys.DOWN, Keys.DOWN)
    assert page["text"].get_attribute("aria-activedescendant") == "option-2"
    page.type(Keys.ENTER)
    assert page.value == "a" + WORDS[2]  # as text, not as markup
    page.chord("z", Keys.CONTROL)
    assert page.value == "a"
    page.chord("z", Keys.CONTROL, Keys.SHIFT)
    assert page.value == "a" + WORDS[2]
    page.suggestions()
    page.type(Keys.TAB)  # the second one accepts
    assert page.value == "a" + WORDS[2] + WORDS[0]
    page.suggestions()
    page.type(Keys.ESCAPE)
    assert not page.options and page.focused == "text"
    page.type(Keys.ESCAPE, Keys.TAB)  # no focus trap
    assert page.focused == "suggest"
    page["text"].click()
    page.suggestions()
    page.type("b")  # typing dismisses
    assert not page.options and page.value.endswith("b")


def test_suggestions_go_where_the_caret_is(page, stub):
    page.type("one two", *[Keys.LEFT] * 4)
    page.suggestions()
    assert stub.requests[0]["inputs"]["text"][0] == "one"
    page.options[0].click()
    assert page.value == "one" + WORDS[0] + " two"


def test_settings_travel_and_stay(page, stub):
    page.driver.execute_script("""
        for (const [name, value] of [["temperature", 0.25], ["rows", 5], ["top_k", 40]]) {
          const slider = document.getElementById(name);
          slider.value = value;
          slider.dispatchEvent(new Event("input"));
        }""")
    page["seed"].send_keys("41")
    page["text"].click()
    assert len(page.suggestions()) == 5
    inputs = stub.requests[-1]["inputs"]
    assert inputs["seed"] == [41, 42, 43, 44, 45] and inputs["temperature"] == [0.25]
    assert inputs["top_k"] == [40]
    assert page["temperature-value"].get_property("value") == "0.25"
    page.driver.refresh()
    page.ready()
    assert page["top_k"].get_property("value") == "40"
    page["reset"].click()
    assert page["top_k"].get_property("value") == "0"
    assert page["model"].get_property("value") == MODEL


def test_typed_values(page, stub):
    """They may lie between the slider's steps, and never outside its range."""
    for name, typed, expected in (("temperature", "0.333", 0.333), ("top_k", "999", 200),
                                  ("min_p", "", 0)):  # fmt: skip
        field = page[f"{name}-value"]
        field.send_keys(Keys.CONTROL, "a")
        field.send_keys(typed or Keys.BACKSPACE, Keys.TAB)
        assert float(field.get_property("value")) == expected
    page["text"].click()
    page.suggestions()
    inputs = stub.requests[-1]["inputs"]
    assert (inputs["temperature"], inputs["top_k"]) == ([0.333], [200])


def test_copy_clear_and_continue(page, stub, chrome):
    assert not page["copy"].is_enabled() and not page["clear"].is_enabled()
    page.type("To be")
    page["continue"].click()
    page.until(lambda: page.value == "To be" + WORDS[0])
    assert stub.requests[-1]["inputs"]["text"] == ["To be"] and page.focused == "text"
    chrome.execute_script("navigator.clipboard.writeText = async (words) => { window.got = words }")
    page["copy"].click()
    page.until(lambda: page["copy"].text == "Copied")
    assert chrome.execute_script("return window.got") == page.value
    page["clear"].click()
    assert page.value == "" and page.focused == "text"
    page["undo"].click()
    assert page.value == "To be" + WORDS[0]
    assert not page.errors()


def test_a_suggestion_has_its_seed(page, stub):
    page["seed"].send_keys("7")
    page["text"].click()
    page.suggestions()
    shown = [option.find_element(By.CLASS_NAME, "chance").text for option in page.options]
    assert shown == ["37 %\nseed 7", "37 %\nseed 8", "37 %\nseed 9"]
    assert "%: mean probability per token" in page["took"].text


def test_a_request_as_curl_and_as_python(page, stub, capsys):
    """Both are run, and send what the page sent."""
    page.type('It\'s "ok" \\ $HOME `x` é')
    page.suggestions()
    sent = stub.requests[-1]
    page["showcode"].click()
    curl, python = (page[name].get_property("textContent") for name in ("curl", "python"))
    assert page["code"].is_displayed()
    if shutil.which("curl"):
        subprocess.run(["sh", "-c", curl], check=True, capture_output=True)
        assert stub.requests[-1] == sent
    exec(compile(python, "python", "exec"), {})
    found = stub.requests[-1]["inputs"]
    rows = {name: value * (3 // len(value)) for name, value in sent["inputs"].items()}
    assert {name: value * (3 // len(value)) for name, value in found.items()} == rows
    assert capsys.readouterr().out.startswith(WORDS[0])
    page["closecode"].click()
    assert not page["code"].is_displayed() and page.focused == "text"
    assert not page.errors()


def test_the_settings_fit_the_screen_of_a_laptop(page, chrome):
    chrome.set_window_size(1280, 800 + 800 - chrome.execute_script("return innerHeight"))
    bottom = "return document.querySelector('aside').getBoundingClientRect().bottom"
    try:
        assert chrome.execute_script(bottom) <= 800
    finally:
        chrome.set_window_size(1200, 900)


def test_tint(page, stub):
    page.type("né, ok")
    page["tint"].click()
    page.until(lambda: page["tinted"].is_displayed())
    tokens = page.driver.find_elements(By.CSS_SELECTOR, "#tinted .t")
    # Seven bytes, of which two are one character.
    assert [token.get_property("textContent") for token in tokens] == list("né, ok")
    kinds = [token.get_attribute("class") for token in tokens]
    assert kinds == ["t", "t c", "t d", "t a", "t b", "t c"]
    ActionChains(page.driver).move_to_element(tokens[1]).perform()
    page.until(lambda: page["card"].is_displayed())
    assert "500th most likely, 37 %" in page["card"].text and "50 %" in page["card"].text
    assert "Top 10 · 1" in page["legend"].text and "perplexity 2.7" in page["legend"].text
    tokens[0].click()
    page.type(Keys.RIGHT, Keys.RIGHT)
    focus = page.driver.switch_to.active_element
    assert focus == tokens[2] and "5,000th most likely" in focus.get_attribute("aria-label")
    page.type(Keys.ESCAPE)
    assert page["text"].is_displayed() and page.focused == "text" and page.value == "né, ok"
    assert not page.errors()


def test_a_model_that_cannot_be_inspected(chrome, stub):
    stub.signatures = ("generate",)
    page = Page(chrome, stub.url).ready()
    assert not page["tint"].is_enabled() and "inspect" in page["tint"].get_attribute("title")


def test_a_model_that_is_still_loading(chrome, stub):
    stub.loading = True
    page = Page(chrome, stub.url)
    page.until(lambda: "The model is not ready yet." in page["banner"].text)
    assert not page["suggest"].is_enabled()
    stub.loading = False
    page.until(lambda: not page["banner"].is_displayed(), "the page never polled again")
    assert page["suggest"].is_enabled()


@pytest.mark.long
def test_the_server_stops_and_comes_back(page, stub):
    page.type("My text")
    stub.stop()
    page.type(Keys.TAB)
    page.until(lambda: page["banner"].is_displayed())
    assert page["banner"].text.startswith("The server does not answer.")
    assert "Your text is safe" in page["banner"].text and page.value == "My text"
    assert not page["popover"].is_displayed() and page["banner"].aria_role == "alert"
    page.type(" goes on")
    assert page.value == "My text goes on"
    again = StubServer(stub.port)
    try:
        page["retry"].click()
        page.until(lambda: page.options)
        assert not page["banner"].is_displayed()
        again.stop()
        page.type(Keys.ESCAPE, Keys.TAB)
        page.type("x")
        page.type(Keys.TAB)
        page.until(lambda: page["banner"].is_displayed())
        again = StubServer(stub.port)
        page.until(lambda: not page["banner"].is_displayed(), "the page never polled again")
    finally:
        again.stop()


def test_error_messages(page, stub):
    for answer, words in (
        (JSONResponse({"error": "XLA compilation disabled"}, 500), "XLA compilation disabled"),
        (JSONResponse({"error": "queue is full"}, 429), "The server is busy."),
        (JSONResponse({"error": "not found"}, 404), "The server has no such model."),
    ):
        stub.answer = answer
        page["text"].click()
        page.type(Keys.TAB)
        page.until(lambda words=words: words in page["banner"].text)
    stub.answer = JSONResponse({"error": "key"}, 401)
    page["retry"].click()
    page.until(lambda: page["key"].is_displayed())
    stub.answer = None
    page["key"].send_keys("secret", Keys.ENTER)
    page.until(lambda: page.options)
    assert not page["banner"].is_displayed()


def test_on_a_phone(page, chrome):
    size = {"width": 380, "height": 740, "deviceScaleFactor": 2, "mobile": True}
    chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        chrome.refresh()
        page.ready()
        wide = chrome.execute_script("return document.documentElement.scrollWidth")
        assert wide <= 380
        page["text"].send_keys("To be")
        page["suggest"].click()
        page.until(lambda: page.options)
        page.until(lambda: chrome.execute_script(
            "const box = document.getElementById('popover').getBoundingClientRect();"
            "return box.left >= 0 && box.right <= 380 && box.bottom <= 741"))  # fmt: skip
        # Large enough for a finger.
        assert all(option.size["height"] >= 40 for option in page.options)
        page.options[1].click()
        assert page.value == "To be" + WORDS[1]
    finally:
        chrome.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.mark.long
def test_dark_and_light(page, chrome):
    theme = "return document.documentElement.dataset.theme"
    for colours in ("dark", "light"):
        media = [{"name": "prefers-color-scheme", "value": colours}]
        chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": media})
        page.until(lambda colours=colours: chrome.execute_script(theme) == colours)
    page["theme"].click()
    assert chrome.execute_script(theme) == "dark"
    chrome.refresh()
    assert chrome.execute_script(theme) == "dark"
    chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


@pytest.mark.long
def test_contrast(page, chrome):
    """At least 4.5 to 1, as WCAG 2.2 requires."""
    pairs = [("ink", "paper"), ("soft", "paper"), ("soft", "desk"), ("accent", "paper"),
             ("accent", "accent-wash"), ("accent-ink", "accent"), ("ink", "danger-wash"),
             *[("ink", f"rank-{kind}") for kind in "abcd"]]  # fmt: skip
    for theme in ("light", "dark"):
        chrome.execute_script("document.documentElement.dataset.theme = arguments[0]", theme)
        for front, back in pairs:
            ratio = contrast(colour(chrome, front), colour(chrome, back))
            assert ratio >= 4.5, (theme, front, back, round(ratio, 2))


def colour(driver, name):
    value = driver.execute_script(
        "return getComputedStyle(document.documentElement).getPropertyValue(arguments[0]).trim()",
        f"--{name}",
    )
    return [int(value[i : i + 2], 16) / 255 for i in (1, 3, 5)]


def contrast(one, other):
    def luminance(rgb):
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted([luminance(one), luminance(other)], reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.long
def test_a_slow_answer_can_be_dismissed(page, stub, chrome):
    chrome.execute_script("window.real = fetch; window.fetch = () => new Promise(() => {})")
    page.type("a", Keys.TAB)
    page.until(lambda: page["wait"].is_displayed())
    page.type(Keys.ESCAPE)
    assert not page["popover"].is_displayed()
    chrome.execute_script("window.fetch = window.real")
    assert len(page.suggestions()) == 3
