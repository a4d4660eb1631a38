"""Reading and writing each format, and what happens to rows that cannot be read."""

import datetime
import json
import math
from pathlib import Path

import pytest
import tensorflow as tf

from tests.support.batch_jobs import read_lines, run_reverse, write_lines
from tfgpt2.batch.formats.json_lines import write
from tfgpt2.batch.formats.registry import FORMATS, find_format


def read(path, data):
    path.write_bytes(data)
    return list(find_format(path).read(path))


def columns(rows):
    return [row.columns for row in rows]


def test_json_lines(tmp_path):
    data = b'\xef\xbb\xbf{"text": "a\\nb"}\r\n\n{"text": 1e999}\n{"a": 1} x\n"s"'
    rows = read(tmp_path / "a.jsonl", data)
    assert columns(rows) == [{"text": "a\nb"}, {"text": math.inf}, {}, {}]
    assert [row.place for row in rows] == ["line 1", "line 3", "line 4", "line 5"]
    assert "Extra data" in rows[2].error and "str" in rows[3].error
    assert rows[-1].offset == len(data)
    deep = read(tmp_path / "b.jsonl", b"[" * 200_000)
    assert "nested more than 100 levels" in deep[0].error


def test_json_lines_are_written_as_json_whatever_the_values_are(tmp_path):
    values = {
        "number": math.nan, "list": [math.inf, 1.5], "bytes": b"caf\xc3\xa9", "raw": b"\xff",
        "day": datetime.date(2026, 1, 2), "deep": {"x": b"y"}, "half": "\ud800", "e": "\u00e9",
    }  # fmt: skip
    write(tmp_path / "a", [values, {"text": "\u2028"}])
    first, second = (tmp_path / "a").read_bytes().decode().split("\n")[:2]
    assert json.loads(first, parse_constant=pytest.fail) == {
        "number": None, "list": [None, 1.5], "bytes": "caf\u00e9", "raw": {"b64": "/w=="},
        "day": "2026-01-02", "deep": {"x": "y"}, "half": "\ud800", "e": "\u00e9",
    }  # fmt: skip
    assert second == '{"text": "\u2028"}'


def test_text_lines(tmp_path):
    rows = read(tmp_path / "a.txt", b"\xef\xbb\xbfTo be\r\n\n  or \xff\xe2\x80\xa8\nend")
    assert [row.columns["text"] for row in rows] == ["To be", "", "  or \ufffd\u2028", "end"]
    assert [row.error for row in rows] == [None, None, "it is not UTF-8: byte 5 is invalid", None]


@pytest.mark.parametrize("ending, sep", [("csv", ","), ("tsv", "\t")])
def test_delimited(tmp_path, ending, sep):
    lines = ["\ufefftext,n", '"a ""b"",\nc",1', "", "d", "e,2,3", "f,\udcff", ",", "g,9"]
    data = "\r\n".join(lines).replace(",", sep).encode("utf-8", "surrogateescape")
    rows = read(tmp_path / f"a.{ending}", data)
    assert columns(rows) == [
        {"text": f'a "b"{sep}\nc', "n": "1"}, {"text": "d"}, {"text": "e", "n": "2"},
        {"text": "f", "n": "\ufffd"}, {"text": "", "n": ""}, {"text": "g", "n": "9"},
    ]  # fmt: skip
    assert [row.error for row in rows] == [
        None, "it has 1 fields, and the header has 2", "it has 3 fields, and the header has 2",
        "it is not UTF-8", None, None,
    ]  # fmt: skip
    assert rows[0].place == "line 2" and rows[-1].place == "line 9"


def test_a_long_field_is_read_and_an_open_quote_is_an_error(tmp_path):
    long = "x" * 200_000
    assert columns(read(tmp_path / "a.csv", f"text\n{long}".encode())) == [{"text": long}]
    with pytest.raises(ValueError, match=r"b.csv cannot be read after line 3: unexpected end"):
        read(tmp_path / "b.csv", b'text\na\n"b\nc\n')


def write_records(path, examples):
    with tf.io.TFRecordWriter(str(path)) as file:
        for one in examples:
            file.write(one)


def example(**features):
    lists = {
        name: tf.train.Feature(bytes_list=tf.train.BytesList(value=value))
        if isinstance(value[0], bytes)
        else tf.train.Feature(int64_list=tf.train.Int64List(value=value))
        for name, value in features.items()
    }
    return tf.train.Example(features=tf.train.Features(feature=lists)).SerializeToString()


def test_tfrecord(tmp_path):
    path = tmp_path / "a.tfrecord"
    first = example(text=[b"caf\xc3\xa9"], n=[1, 2], raw=[b"\xff"])
    write_records(path, [first, b"\xff\xff", example(text=[b"b"])])
    rows = list(FORMATS[".tfrecord"].read(path))
    assert columns(rows) == [{"n": [1, 2], "raw": b"\xff", "text": "caf\u00e9"}, {}, {"text": "b"}]
    assert rows[1].error == "it is not a tf.train.Example" and rows[2].place == "record 3"
    assert rows[-1].offset == path.stat().st_size
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(ValueError, match="a.tfrecord cannot be read after record 2: truncated"):
        list(FORMATS[".tfrecord"].read(path))


def test_a_damaged_file_stops_the_job_and_the_files_before_it_stay(tmp_path):
    path = tmp_path / "a.tfrecord"
    write_records(path, [example(text=[b"ab"])] * 6)
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(ValueError, match="cannot be read after record 5"):
        run_reverse(path, tmp_path / "out")
    assert [row["reversed"] for row in read_lines(tmp_path / "out")] == ["ba"] * 4


def test_every_ending_is_known_in_capitals_too():
    assert find_format(Path("A.CSV")) is FORMATS[".csv"]
    with pytest.raises(ValueError, match="Known endings: .jsonl"):
        find_format(Path("a.docx"))


class TestParquet:
    """With pyarrow."""

    @pytest.fixture(autouse=True)
    def pyarrow(self):
        self.pa = pytest.importorskip("pyarrow")
        self.pq = pytest.importorskip("pyarrow.parquet")

    def write(self, path, **columns):
        self.pq.write_table(self.pa.table(columns), path)
        return path

    def rows(self, folder):
        parts = sorted(folder.glob("part-*.parquet"))
        return [row for part in parts for row in self.pq.read_table(part).to_pylist()]

    def test_types_are_kept_and_results_are_added(self, tmp_path):
        days = self.pa.array([datetime.date(2026, 1, day) for day in range(1, 6)])
        texts = ["ab", None, "c", "bad", "dd"]
        numbers = self.pa.array([1, 2, 3, 4, 5], self.pa.int8())
        source = self.write(tmp_path / "a.parquet", text=texts, day=days, n=numbers)
        report = run_reverse(source, tmp_path / "out", format="parquet")
        rows = self.rows(tmp_path / "out")
        assert [row["reversed"] for row in rows] == ["ba", None, "c", None, "dd"]
        assert [bool(row["error"]) for row in rows] == [False, True, False, True, False]
        assert rows[4]["day"] == datetime.date(2026, 1, 5) and report.errors == 2
        first, second = (
            self.pq.read_schema(tmp_path / "out" / f"part-00000{i}.parquet") for i in (0, 1)
        )
        assert first.equals(second) and str(first.field("n").type) == "int8"
        assert str(first.field("length").type) == "int32"
        run_reverse(source, tmp_path / "lines")
        assert read_lines(tmp_path / "lines")[0]["day"] == "2026-01-01"

    def test_json_lines_to_parquet_has_the_types_of_the_first_rows(self, tmp_path):
        rows = [{"text": "a", "n": 1, "x": None, "s": {"a": 1}}] * 4
        rows += [{"text": "b", "n": 2.5}, {"text": "c", "y": 1}, {"text": "d", "n": None}]
        rows += [{"text": "e", "s": {"a": 2, "b": 3}}]
        source = write_lines(tmp_path / "a.jsonl", rows)
        run_reverse(source, tmp_path / "out", format="parquet")
        found = self.rows(tmp_path / "out")
        assert [row["n"] for row in found] == [1, 1, 1, 1, None, None, None, None]
        assert "no place in the output for n" in found[4]["error"]
        assert "no place in the output for y" in found[5]["error"] and found[6]["error"] is None
        assert "no place in the output for s" in found[7]["error"]

    def test_bad_parquet_inputs_are_refused(self, tmp_path):
        first = self.write(tmp_path / "a.parquet", text=["a"], n=[1])
        other = self.write(tmp_path / "b.parquet", text=["a"], n=["1"])
        with pytest.raises(ValueError, match="columns of different types"):
            run_reverse([first, other], tmp_path / "out", format="parquet")
        mixed = write_lines(tmp_path / "c.jsonl", [{"text": "a", "n": 1}, {"text": "b", "n": "x"}])
        with pytest.raises(ValueError, match="Column 'n' has values of different types"):
            run_reverse(mixed, tmp_path / "out", format="parquet")
        (tmp_path / "d.parquet").write_bytes(first.read_bytes()[:-9])
        with pytest.raises(ValueError, match="d.parquet cannot be read after row 0"):
            run_reverse(tmp_path / "d.parquet", tmp_path / "out")
        empty = self.write(tmp_path / "e.parquet", text=self.pa.array([], self.pa.string()))
        with pytest.raises(ValueError, match="e.parquet has no rows"):
            run_reverse(empty, tmp_path / "out")


def test_without_pyarrow_parquet_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(ImportError, match=r"pip install 'tfgpt2\[parquet\]'"):
        run_reverse(tmp_path / "a.parquet", tmp_path / "out")
    source = write_lines(tmp_path / "a.jsonl", [{"text": "a"}])
    with pytest.raises(ImportError, match=r"pip install 'tfgpt2\[parquet\]'"):
        run_reverse(source, tmp_path / "out", format="parquet")
