"""`tfgpt2 chat`: turns, commands, Ctrl-C, and the loop that reads lines."""

from types import SimpleNamespace

import pytest

from tfgpt2.cli import chat
from tfgpt2.cli.chat import Chat


class EchoGenerator:
    """Answers with the number of its call; records prompts and settings."""

    def __init__(self):
        self.calls, self.interrupt = [], False

    def stream(self, prompt, **settings):
        self.calls.append((prompt, settings))
        yield f" answer {len(self.calls)}"
        if self.interrupt:
            raise KeyboardInterrupt
        yield "."
        return 5


@pytest.fixture
def talk():
    shown = []
    talk = Chat(EchoGenerator(), {"max_new_tokens": 9}, shown.append)
    talk.shown = shown
    return talk


def test_turns_make_one_text(talk):
    talk.enter("ROMEO:")
    talk.enter("JULIET:\nWho is there?")
    talk.enter("")
    assert talk.text == "ROMEO: answer 1.\nJULIET:\nWho is there? answer 2. answer 3."
    assert [prompt for prompt, _ in talk.generator.calls] == [
        "ROMEO:", "ROMEO: answer 1.\nJULIET:\nWho is there?", talk.text.removesuffix(" answer 3."),
    ]  # fmt: skip
    assert "".join(talk.shown[:4]) == " answer 1.\n"


def test_settings_change_inside_and_a_bad_value_changes_nothing(talk):
    talk.enter("/temperature 0.5")
    talk.enter('/stop ["a", "b"]')
    talk.enter("Hi")
    expected = {"max_new_tokens": 9, "temperature": 0.5, "stop": ["a", "b"]}
    assert talk.generator.calls == [("Hi", expected)]
    for line in ("/temperature hot", "/top_p 3", "/temprature 1"):
        with pytest.raises((TypeError, ValueError)):
            talk.enter(line)
    talk.enter("/temperature 0")
    talk.enter("/stop none")
    assert talk.settings == {"max_new_tokens": 9, "temperature": 0}


def test_retry_undo_and_new(talk):
    talk.enter("/seed 1")
    talk.enter("Hi")
    talk.enter("/retry")
    assert talk.text == "Hi answer 2." and talk.generator.calls[1][1]["seed"] is None
    talk.enter("And")
    talk.enter("/undo")
    assert talk.text == "Hi answer 2."
    talk.enter("/new")
    assert talk.text == ""
    with pytest.raises(ValueError, match="no turn yet"):
        talk.enter("/retry")


def test_save_and_a_text_that_begins_with_a_slash(talk, tmp_path):
    talk.enter("//path")
    talk.enter(f"/save {tmp_path / 'a.txt'}")
    assert (tmp_path / "a.txt").read_text() == "/path answer 1."
    with pytest.raises(OSError, match="No such file"):
        talk.enter(f"/save {tmp_path / 'no/a.txt'}")


def test_ctrl_c_ends_an_answer_and_keeps_what_was_written(talk):
    talk.generator.interrupt = True
    talk.enter("Hi")
    assert talk.text == "Hi answer 1"
    talk.generator.interrupt = False
    talk.enter("")
    assert talk.text == "Hi answer 1 answer 2."


def test_a_misspelt_command_names_the_nearest(talk):
    with pytest.raises(ValueError, match="Did you mean 'retry'"):
        talk.enter("/rety")


def test_the_loop_reads_lines_keys_and_history(talk, tmp_path, monkeypatch):
    pytest.importorskip("prompt_toolkit", reason="needs the extra chat")
    from prompt_toolkit.application import create_app_session
    from prompt_toolkit.input import create_pipe_input
    from prompt_toolkit.output import DummyOutput

    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with create_pipe_input() as keys, create_app_session(input=keys, output=DummyOutput()):
        # Alt-Enter, Enter; Ctrl-C drops a line; an error; Ctrl-D leaves.
        keys.send_text("one\x1b\rtwo\rdropped\x03/nothing\r/retry\r\x04")
        chat.run(talk)
    prompts = [prompt for prompt, _ in talk.generator.calls]
    assert prompts == ["one\ntwo"] * 2 and not talk.is_over
    assert "/nothing" in (tmp_path / "tfgpt2/history").read_text()


def test_a_conversation_needs_a_terminal(monkeypatch):
    monkeypatch.setattr("tfgpt2.extras.require", lambda *_: None)
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: False))
    with pytest.raises(RuntimeError, match="needs a terminal"):
        chat.interact("shakespeare-tiny", {})
