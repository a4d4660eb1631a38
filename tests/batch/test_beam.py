"""Apache Beam on its DirectRunner, in this process and in several.

By the name "DirectRunner", Beam tries first to download Prism, a program in Go, and runs on the
FnApiRunner where it cannot; here the latter is named, so that nothing is downloaded.
"""

import numpy as np
import pytest

from tests.support.batch_jobs import Reverse, contents, read_lines, run_reverse, write_lines
from tfgpt2.batch.job import run_job
from tfgpt2.batch.settings import JobSettings
from tfgpt2.batch.tasks.generate import Generate
from tfgpt2.batch.tasks.text_scoring import Score

beam = pytest.importorskip("apache_beam")

from apache_beam.options.pipeline_options import PipelineOptions  # noqa: E402
from apache_beam.testing.test_pipeline import TestPipeline  # noqa: E402
from apache_beam.testing.util import assert_that, equal_to  # noqa: E402

from tfgpt2.beam import EmbedText, GenerateText, ScoreText, TextModelHandler  # noqa: E402
from tfgpt2.beam.pipeline import run_pipeline  # noqa: E402

TEXTS = ["To be, or not to be", "What", "that is the question " * 4, "ROMEO:\n", "I", "You"]
IN_PROCESS = ["--direct_running_mode=in_memory"]
SEVERAL = ["--direct_running_mode=multi_processing", "--direct_num_workers=2"]


class ReverseText(ScoreText):
    task = Reverse


def pipeline(flags=IN_PROCESS):
    return TestPipeline(options=PipelineOptions([*flags, "--runner=FnApiRunner"]))


def counters(result):
    return {one.key.metric.name: one.committed for one in result.metrics().query()["counters"]}


@pytest.fixture
def source(tmp_path):
    rows = [{"id": i, "text": text} for i, text in enumerate([*TEXTS, "bad"])]
    return write_lines(tmp_path / "in.jsonl", rows)


def test_rows_and_bad_rows_are_two_collections_and_are_counted():
    with pipeline() as steps:
        rows = [{"id": 1, "text": "ab"}, {"id": 2}, "cd", {"id": 3, "text": "bad"}]
        found = steps | beam.Create(rows) | ReverseText("m", batch_size=2)
        good = [{"id": 1, "text": "ab", "reversed": "ba"}, {"text": "cd", "reversed": "dc"}]
        assert_that(found.rows, equal_to([{**one, "length": 2} for one in good]), "rows")
        bad = found.errors | beam.Map(lambda row: (row["id"], row["error"].split(".")[0]))
        expected = [(2, "Column 'text' must hold a text"), (3, "This text is bad")]
        assert_that(bad, equal_to(expected), "errors")
    counted = counters(steps.result)
    assert counted["rows"] == 4 and counted["errors"] == 2
    names = {one.key.metric.name for one in steps.result.metrics().query()["distributions"]}
    assert {"inference_batch_latency_micro_secs", "load_model_latency_milli_secs"} <= names


@pytest.mark.long
def test_scores_and_vectors_are_those_of_a_job(tiny, tmp_path):
    source = write_lines(tmp_path / "in.jsonl", [{"text": text} for text in TEXTS])
    settings = JobSettings(batch_size=4, jit_compile=False)
    run_job(Score(), [source], tmp_path / "out", model=str(tiny), settings=settings)
    expected = {row["text"]: row["logprob"] for row in read_lines(tmp_path / "out")}

    def check(rows):
        assert {row["text"] for row in rows} == set(TEXTS)
        for row in rows:
            assert np.isclose(row["logprob"], expected[row["text"]], rtol=1e-4)

    with pipeline() as steps:
        texts = steps | beam.Create(TEXTS)
        options = {"batch_size": 4, "jit_compile": False}
        scores = texts | ScoreText(str(tiny), **options)
        assert_that(scores.rows, check, "scores")
        vectors = texts | EmbedText(str(tiny), pooling="last", **options)
        widths = vectors.rows | beam.Map(lambda row: len(row["embedding"]))
        assert_that(widths, equal_to([16] * 6), "widths")


@pytest.mark.long
def test_a_row_has_the_same_draws_in_every_bundle(tiny):
    fields = {"options": {"max_new_tokens": 6, "temperature": 1.0}}
    found = []
    for texts in (TEXTS, TEXTS[::-1]):
        handler = TextModelHandler(Generate(**fields), str(tiny), batch_size=4, jit_compile=False)
        rows = handler.run_inference([{"text": text} for text in texts], handler.load_model())
        found.append({row["text"]: row["generated_text"] for row in rows})
    assert found[0] == found[1] and len(set(found[0].values())) == 6
    with pytest.raises(ValueError, match="inference_args"):
        handler.validate_inference_args({"temperature": 1})


def test_fields_are_checked_when_the_pipeline_is_made():
    with pytest.raises(ValueError, match="top_p"):
        GenerateText("m", options={"top_p": 7})
    with pytest.raises(TypeError, match="poolings"):
        EmbedText("m", poolings="last")


@pytest.mark.parametrize(
    "flags", [IN_PROCESS, pytest.param(SEVERAL, marks=pytest.mark.long)], ids=["one", "several"]
)
def test_a_pipeline_writes_the_files_of_a_job(source, tmp_path, flags):
    run_reverse(source, tmp_path / "job")
    settings = JobSettings(rows_per_file=4, batch_size=2)
    job = (Reverse(), [str(source)], str(tmp_path / "out"), "m", settings)
    report = run_pipeline(job, "FnApiRunner", flags)
    assert contents(tmp_path / "out") == contents(tmp_path / "job")
    assert (report.complete, report.files, report.rows, report.errors) == (True, 2, 7, 1)
    (tmp_path / "out" / "part-000001.jsonl").unlink()
    assert run_pipeline(job, "FnApiRunner", flags).files == 1
    assert contents(tmp_path / "out") == contents(tmp_path / "job")


@pytest.mark.long
def test_a_model_on_several_processes(tiny, source, tmp_path):
    settings = JobSettings(rows_per_file=2, batch_size=2, jit_compile=False)
    task = Generate({"max_new_tokens": 4, "temperature": 1.0, "seed": 3})
    run_job(task, [source], tmp_path / "job", model=str(tiny), settings=settings)
    job = (task, [str(source)], str(tmp_path / "out"), str(tiny), settings)
    assert run_pipeline(job, "FnApiRunner", SEVERAL).complete
    assert contents(tmp_path / "out") == contents(tmp_path / "job")


def test_errors_of_a_job_show_before_the_pipeline_starts(source, tmp_path):
    settings = JobSettings(text_column="body")
    job = (Reverse(), [str(source)], str(tmp_path / "out"), "m", settings)
    with pytest.raises(ValueError, match="no column 'body'"):
        run_pipeline(job, "DirectRunner")
