"""Jobs with a model that turns texts around: order, errors, resuming, shards, refusals."""

import itertools
import json
import os
from pathlib import Path

import pytest

from tests.support.batch_jobs import Reverse, contents, read_lines, run_reverse, write_lines
from tfgpt2.batch.inputs import open_inputs
from tfgpt2.batch.models import find_export
from tfgpt2.batch.settings import JobSettings

TEXTS = ["aa", "b", "ccccc", "dd", "", "eee", "f", "gg", "hhhh", "i"]


@pytest.fixture
def source(tmp_path):
    rows = [{"id": i, "text": text, "more": {"a": [i]}} for i, text in enumerate(TEXTS)]
    return write_lines(tmp_path / "in.jsonl", rows)


def test_rows_keep_their_order_and_columns(source, tmp_path):
    report = run_reverse(source, tmp_path / "out")
    expected = [
        {
            **{"id": i, "text": text, "more": {"a": [i]}, "reversed": text[::-1]},
            **{"length": len(text), "error": None},
        }
        for i, text in enumerate(TEXTS)
    ]
    assert read_lines(tmp_path / "out") == expected
    assert (report.complete, report.files, report.rows, report.errors) == (True, 3, 10, 0)
    names = ["_SUCCESS", "_job.json", *(f"part-{i:06d}.jsonl" for i in range(3))]
    assert sorted(contents(tmp_path / "out")) == names
    assert json.loads((tmp_path / "out" / "_SUCCESS").read_text()) == {"files": 3, "rows": 10}


def test_batches_hold_rows_of_similar_length_and_have_one_size(source, tmp_path):
    Reverse.calls.clear()
    run_reverse(source, tmp_path / "out")
    assert Reverse.calls == [
        *([b"ccccc", b"aa"], [b"dd", b"b"]),
        *([b"eee", b"gg"], [b"f", b""]),
        [b"hhhh", b"i"],
    ]
    Reverse.calls.clear()
    run_reverse(source, tmp_path / "other", batch_size=8)
    assert [len(call) for call in Reverse.calls] == [8, 8, 8]


def test_a_bad_row_is_an_error_in_its_row(tmp_path):
    lines = ['{"text": "ab", "n": 1}', "{", '{"n": 2}', '{"text": 3}', "[]", '{"text": "bad"}', ""]
    lines += ['{"text": "c", "length": 7}', '{"text": "\\ud800"}', '{"text": "\xff"}']
    (tmp_path / "in.jsonl").write_bytes("\n".join(lines).encode("latin-1"))
    report = run_reverse(tmp_path / "in.jsonl", tmp_path / "out")
    rows = read_lines(tmp_path / "out")
    found = [
        (row["reversed"], row["error"] and row["error"].partition("Received")[0]) for row in rows
    ]
    assert found[0] == ("ba", None) and found[7] == ("?", None) and rows[7]["text"] == "\ud800"
    for i, part in (
        (1, "in.jsonl, line 2: it is not valid JSON (Expecting property name"),
        (2, "Column 'text' must hold a text."),
        (3, "Column 'text' must hold a text."),
        (4, "in.jsonl, line 5: it is not a JSON object but a list."),
        (5, "This text is bad."),
        (6, "in.jsonl, line 8: no place in the output for length."),
        (8, "in.jsonl, line 10: it is not UTF-8: byte 10 is invalid."),
    ):
        assert found[i][0] is None and found[i][1].startswith(part)
    assert rows[2]["n"] == 2 and "length" in rows[6]
    assert report.errors == 7 and report.rows == 9


def test_a_bad_row_can_stop_the_job_and_the_files_before_it_stay(tmp_path):
    rows = [{"text": "a"}] * 6 + [{"text": "bad"}]
    source = write_lines(tmp_path / "in.jsonl", rows)
    with pytest.raises(ValueError, match=r"in.jsonl, line 7.*This text is bad"):
        run_reverse(source, tmp_path / "out", on_error="stop")
    assert sorted(contents(tmp_path / "out")) == ["_job.json", "part-000000.jsonl"]
    assert run_reverse(source, tmp_path / "out").complete  # `on_error` is no part of the job


class Killed(BaseException):
    """What ends the process of a test."""


class Steps:
    """Counts the calls by which files are written, and ends the process at the last one."""

    CALLS = ((os, "fsync"), (Path, "replace"), (Path, "write_text"), (Path, "mkdir"))

    def __init__(self, patch, last, after):
        self.count = 0
        # A killed process does not tidy up: it leaves its temporary files.
        patch.setattr(Path, "unlink", lambda path, missing_ok=False: None)
        for place, name in self.CALLS:
            patch.setattr(place, name, self.step(getattr(place, name), last, after))

    def step(self, function, last, after):
        def step(*args, **kwargs):
            self.count += 1
            if self.count == last and not after:
                raise Killed
            found = function(*args, **kwargs)
            if self.count == last:
                raise Killed
            return found

        return step


@pytest.mark.parametrize("after", [False, True])
def test_a_job_that_is_killed_at_any_step_ends_with_the_same_bytes(
    source, tmp_path, monkeypatch, after
):
    run_reverse(source, tmp_path / "whole")
    expected, left = contents(tmp_path / "whole"), 0
    for last in itertools.count(1):
        output = tmp_path / f"out{last}"
        with monkeypatch.context() as patch:
            Steps(patch, last, after)
            try:
                run_reverse(source, output)
                break
            except Killed:
                pass
        left += any(name.startswith(".") for name in os.listdir(output)) if last > 1 else 0
        assert run_reverse(source, output).complete and contents(output) == expected, last
    assert last > 9 and left > 3  # temporary files were there, and are gone


def test_a_finished_job_computes_nothing_again(source, tmp_path):
    run_reverse(source, tmp_path / "out")
    Reverse.calls.clear()
    (tmp_path / "out" / "part-000001.jsonl").unlink()
    report = run_reverse(source, tmp_path / "out")
    assert report.files == 1 and Reverse.calls == [[b"eee", b"gg"], [b"f", b""]]
    assert run_reverse(source, tmp_path / "out").rows == 0 and len(Reverse.calls) == 2


def test_shards_write_together_what_one_process_writes(source, tmp_path):
    run_reverse(source, tmp_path / "one")
    first = run_reverse(source, tmp_path / "out", shard="1/2")
    assert not first.complete and first.files == 1 and first.rows == 4
    assert "_SUCCESS" not in contents(tmp_path / "out")
    assert run_reverse(source, tmp_path / "out", shard="0/2").complete
    assert contents(tmp_path / "out") == contents(tmp_path / "one")


@pytest.mark.parametrize(
    "change, message",
    [
        ({"twice": True}, "twice='False there, True now'"),
        ({"batch_size": 3}, "batch_size='2 there, 3 now'"),
        ({"model": "n"}, "model_digest=\"'m' there, 'n' now\""),
        ({"rows_per_file": 5}, "rows_per_file='4 there, 5 now'"),
    ],
)
def test_another_job_is_refused_and_nothing_is_overwritten(source, tmp_path, change, message):
    run_reverse(source, tmp_path / "out")
    before = contents(tmp_path / "out")
    with pytest.raises(ValueError) as raised:
        run_reverse(source, tmp_path / "out", **change)
    assert message in str(raised.value) and "nothing was changed" in str(raised.value)
    assert contents(tmp_path / "out") == before


def test_changed_inputs_are_refused(source, tmp_path):
    run_reverse(source, tmp_path / "out")
    source.write_text(source.read_text().replace("ccccc", "ccccd"))
    with pytest.raises(ValueError, match="digest="):
        run_reverse(source, tmp_path / "out")
    with pytest.raises(ValueError, match="in.jsonl"):
        run_reverse([source, source], tmp_path / "out")


def test_a_folder_with_other_files_is_refused(source, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"thesis\.txt"):
        run_reverse(source, tmp_path / "out")
    assert contents(tmp_path / "out") == {"thesis.txt": b"mine"}
    with pytest.raises(NotADirectoryError):
        run_reverse(source, source)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "_job.json").write_text("{")
    with pytest.raises(ValueError, match="not a readable job"):
        run_reverse(source, tmp_path / "broken")


@pytest.mark.parametrize(
    "files, settings, message",
    [
        ({"a.jsonl": ""}, {}, "a.jsonl has no rows"),
        ({"a.csv": "text\n"}, {}, "a.csv has no rows"),
        ({"a.jsonl": '{"txt": "a"}'}, {}, "a.jsonl has no column 'text'.*Did you mean 'txt'"),
        ({"a.txt": "a"}, {"text_column": "body"}, "a.txt has no column 'body'"),
        (
            {"a.jsonl": '{"text": "a"}', "b.jsonl": '{"text": "a", "n": 1}'}, {},
            "a.jsonl and b.jsonl have different columns",
        ),
        ({"a.csv": "text,n\na,1", "b.txt": "a"}, {}, "different columns"),
        ({"a.bin": "a"}, {}, "The ending of a.bin is not that of a known format"),
        ({"a.jsonl": "To be\nor not"}, {}, "None of the first 2 rows of a.jsonl can be read"),
        ({"a.csv": "text,error\na,b"}, {}, "the name of a result column.*'error'"),
        ({"a.csv": "text,text\na,b"}, {}, "has a name twice"),
    ],
)  # fmt: skip
def test_bad_inputs_are_refused_before_anything_is_written(tmp_path, files, settings, message):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        run_reverse([tmp_path / name for name in files], tmp_path / "out", **settings)
    assert not (tmp_path / "out").exists()


def test_missing_inputs_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="none.jsonl"):
        run_reverse(tmp_path / "none.jsonl", tmp_path / "out")
    with pytest.raises(ValueError, match="needs input files"):
        run_reverse([], tmp_path / "out")


def test_result_columns_can_be_renamed(tmp_path):
    source = write_lines(tmp_path / "in.jsonl", [{"text": "ab", "error": "of an earlier job"}])
    run_reverse(source, tmp_path / "out", result_prefix="r_")
    assert read_lines(tmp_path / "out") == [
        {
            **{"text": "ab", "error": "of an earlier job"},
            **{"r_reversed": "ba", "r_length": 2, "r_error": None},
        }
    ]


def test_files_are_read_in_order_and_by_patterns(tmp_path):
    for name in "ba":
        write_lines(tmp_path / f"{name}.jsonl", [{"text": name + str(i)} for i in range(3)])
    run_reverse([str(tmp_path / "*.jsonl")], tmp_path / "out")
    texts = [row["text"] for row in read_lines(tmp_path / "out")]
    assert texts == ["a0", "a1", "a2", "b0", "b1", "b2"]


def test_only_one_window_of_rows_is_in_memory(tmp_path, monkeypatch):
    """The reader is never more than a row ahead of the window that is processed."""
    source = write_lines(tmp_path / "in.jsonl", [{"text": str(i)} for i in range(50)])
    inputs, read = open_inputs([source], ["text"]), 0
    rows = type(inputs).rows

    def counting(self):
        nonlocal read
        for one in rows(self):
            read += 1
            yield one

    monkeypatch.setattr(type(inputs), "rows", counting)
    for number, (window, _) in enumerate(inputs.windows(8)):
        assert read == number * 8 + len(window)


@pytest.mark.parametrize(
    "values",
    [
        {"shard": "2/2"}, {"shard": "1"}, {"shard": "-1/2"}, {"batch_size": 0}, {"format": "xml"},
        {"rows_per_file": 0}, {"on_error": "ignore"},
    ],
)  # fmt: skip
def test_settings_out_of_range_raise(values):
    with pytest.raises(ValueError, match=next(iter(values))):
        JobSettings(**values)


def test_the_largest_version_of_an_export_counts(tmp_path):
    for name in ("9", "0010", "x", "99999999999999999999"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "saved_model.pb").touch()
    assert find_export(str(tmp_path)) == tmp_path / "0010"
    assert find_export(str(tmp_path / "9")) == tmp_path / "9"
    assert find_export(str(tmp_path / "missing")) is None
