"""The driver of `make bench` with fake backends: rounds, failures, time budget, report."""

import dataclasses
import json
import subprocess
import time
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parent.parent / "benchmarks"

FAKE = '''
"""A backend without a model: its variant selects the behavior."""
import json, os, sys, time
variant = sys.argv[sys.argv.index("--variant") + 1]
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
print("libraries may print to standard output")
calls, prepared = 0, False
for line in sys.stdin:
    request = json.loads(line)
    what = request["do"]
    if what == "quit":
        break
    calls += what in ("decode", "sample", "bare_loop")
    new = request.get("new", 0)
    made = what == "prepare" and not os.path.exists("made-" + variant) and variant == "converts"
    if made:
        open("made-" + variant, "w").close()
    prepared |= what == "prepare"
    reply = {
        "hello": {"version": "1", "rss_mb": 10.0, "peak_mb": 10.0},
        "prepare": {"made": made},
        "load": {"seconds": 0.5, "rss_mb": 20.0, "peak_mb": 21.0} if prepared else {"error": "no"},
        "memory": {"rss_mb": 20.0, "peak_mb": 30.0},
    }.get(what)
    if reply is None:
        rate = 0.020 if variant == "slow" else 0.010
        reply = {"seconds": 0.1 + rate * new, "compiled": int(variant == "again" and calls > 2)}
        if request.get("tokens"):
            other = variant == "other"
            reply["tokens"] = [[i + other * (i > 2) for i in range(new)]] * request["batch"]
        if variant == "wrong":
            reply = {"error": "ValueError: no"}
        if variant == "dies" and calls == 3:
            sys.stderr.write("a library crashed")
            os._exit(7)
        if variant == "hangs":
            time.sleep(60)
    answers.write(json.dumps(reply) + "\\n")
    answers.flush()
'''


@pytest.fixture
def bench(monkeypatch):
    """The modules of the folder, which is not a package."""
    monkeypatch.syspath_prepend(str(FOLDER))
    import cases
    import compare
    import environments
    import report
    import roofline

    class Modules:
        pass

    modules = Modules()
    modules.cases, modules.compare, modules.report = cases, compare, report
    modules.environments, modules.roofline = environments, roofline
    rates = roofline.Rates(10.0, 100.0)
    monkeypatch.setattr(roofline, "measure", lambda **_: rates)  # it takes a second
    return modules


@pytest.fixture
def comparison(bench, tmp_path):
    """Creates a comparison of fake backends by variant; the first is the baseline."""
    (tmp_path / "fake.py").write_text(FAKE)
    pools = []

    def make(*variants, rounds=3, seconds=60.0, answer=20.0, resume=False, count=False):
        results = bench.compare.Results(tmp_path / "results.json", resume=resume)
        results.data["about"] = {"mode": "full", "cpus": 2, "date": "today"}
        pool = bench.compare.WorkerPool(
            tmp_path, results, seconds=answer, here=tmp_path, count=count
        )
        pools.append(pool)
        does = (("decode", "decode"), ("sample", "sample"))
        names = [bench.cases.BASELINE, *variants[1:]]
        rows = [
            bench.cases.Row(name, bench.environments.OWN, "fake.py", variant, does)
            for name, variant in zip(names, variants, strict=True)
        ]
        notes = []
        run = bench.compare.Comparison(
            pool, results, rounds=rounds, end=time.monotonic() + seconds, note=notes.append
        )
        return run, rows, results, notes

    yield make
    for pool in pools:
        pool.close()


def case(bench, name="decode-1"):
    return next(case for case in bench.cases.CASES if case.name == name)


def test_step_time_is_the_difference_of_two_lengths(bench, comparison):
    run, rows, results, _ = comparison("plain", "slow")
    assert run.run(rows, [case(bench)]) == []
    found = results.data["cases"]["decode-1"]["rows"]
    assert found["slow"]["values"] == pytest.approx([20.0] * 3)
    assert bench.report.median(results.data, "decode-1", bench.cases.BASELINE) == pytest.approx(10)
    assert bench.report.ratio(results.data, "decode-1", "slow") == pytest.approx(2)
    assert found["slow"]["first_seconds"] == pytest.approx(0.1 + 64 * 0.020)
    assert results.data["rows"]["slow"]["peak_mb"] == 30
    prefill = results.data["cases"]["prefill-32"]["rows"]["slow"]["values"]
    assert prefill == pytest.approx([140.0] * 3)  # the subtracted run
    assert len(results.data["rates"]) == 3
    assert json.loads(results.path.read_text()) == results.data


def test_whole_call_is_measured_without_a_base(bench, comparison):
    run, rows, results, _ = comparison("plain", rounds=1)
    run.run(rows, [case(bench, "prefill-512")])
    values = results.data["cases"]["prefill-512"]["rows"][bench.cases.BASELINE]["values"]
    assert values == pytest.approx([120.0])


def test_rounds_are_interleaved_and_rotated(bench, comparison, monkeypatch):
    run, rows, _, _ = comparison("plain", "slow")
    order = []
    measure = run._measure
    monkeypatch.setattr(
        run, "_measure", lambda case, row: (order.append(row.variant), measure(case, row))[1]
    )
    run.run(rows, [case(bench)])
    assert order == ["plain", "slow", "slow", "plain", "plain", "slow"]


def test_tokens_are_compared_with_the_baseline(bench, comparison):
    run, rows, results, notes = comparison("plain", "other", "slow", rounds=1)
    run.run(rows, [case(bench)])
    found = results.data["cases"]["decode-1"]["rows"]
    assert (found["slow"]["same_tokens"], found["slow"]["all_tokens"]) == (64, 64)
    assert found["other"]["same_tokens"] == 3
    assert [note for note in notes if "only" in note] == [
        "decode-1: other: only 3 of 64 tokens agree"
    ]
    assert "tokens" not in found["slow"]


def test_failing_backend_is_skipped_and_the_others_continue(bench, comparison):
    run, rows, results, notes = comparison("plain", "wrong", "dies", "slow")
    run.run(rows, [case(bench), case(bench, "decode-8")])
    found = results.data["cases"]["decode-1"]["rows"]
    assert found["wrong"] == {"values": [], "error": "ValueError: no"}
    assert "exited with 7: " in found["dies"]["error"]
    assert "a library crashed" in found["dies"]["error"]
    assert len(found["slow"]["values"]) == len(found[bench.cases.BASELINE]["values"]) == 3
    # A backend that died is restarted for the next case.
    assert "first_seconds" in results.data["cases"]["decode-8"]["rows"]["dies"]
    assert any("wrong failed" in note for note in notes)


def test_backend_is_restarted_after_a_conversion(bench, comparison, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run, rows, results, _ = comparison("plain", "converts", rounds=1)
    starts, start = [], run.pool._start
    monkeypatch.setattr(run.pool, "_start", lambda row: (starts.append(row.variant), start(row))[1])
    run.run(rows, [case(bench)])
    assert starts == ["plain", "converts", "converts"]
    assert results.data["cases"]["decode-1"]["rows"]["converts"]["values"]


def test_workers_no_longer_needed_are_stopped(bench, comparison, monkeypatch):
    run, rows, _, _ = comparison("plain", "slow", "again", rounds=1)
    for variant, only in (("slow", "decode-1"), ("again", "decode-8")):
        index = [row.variant for row in rows].index(variant)
        rows[index] = dataclasses.replace(rows[index], cases=(only,))
    alive = []
    measure = run.measure

    def look(case, taking, share):
        measure(case, taking, share)
        alive.append(sorted(variant for _, _, variant in run.pool._workers))

    monkeypatch.setattr(run, "measure", look)
    run.run(rows, [case(bench), case(bench, "decode-8"), case(bench, "decode-32")])
    assert alive == [["plain", "slow"], ["again", "plain"], ["plain"]]


def test_backend_that_times_out_is_stopped(bench, comparison):
    run, rows, results, _ = comparison("plain", "hangs", rounds=1, answer=3.0)
    run.run(rows, [case(bench)])
    found = results.data["cases"]["decode-1"]["rows"]
    assert found["hangs"]["error"] == "no answer in 3 s"
    assert found[bench.cases.BASELINE]["values"]


def test_backend_that_cannot_start_is_reported(bench, comparison):
    run, rows, results, _ = comparison("plain", "slow", rounds=1)
    (run.pool.here / "broken.py").write_text("import there_is_no_such_library")
    rows[1] = bench.cases.Row("broken", bench.environments.OWN, "broken.py", "x", rows[0].does)
    run.run(rows, [case(bench)])
    error = results.data["cases"]["decode-1"]["rows"]["broken"]["error"]
    assert "No module named 'there_is_no_such_library'" in error


def test_cases_beyond_the_time_budget_are_reported(bench, comparison):
    run, rows, results, _ = comparison("plain", seconds=-1.0)
    assert run.run(rows, [case(bench), case(bench, "decode-8")]) == ["decode-1", "decode-8"]
    run, rows, results, _ = comparison("plain", rounds=10**6, seconds=0.5)
    run.run(rows, [case(bench)])
    values = results.data["cases"]["decode-1"]["rows"][bench.cases.BASELINE]["values"]
    assert bench.compare.LEAST_ROUNDS <= len(values) < 10**6


def test_resumed_run_measures_what_is_missing(bench, comparison):
    run, rows, _, _ = comparison("plain", "slow", "wrong", rounds=2)
    run.run(rows, [case(bench)])
    run, rows, results, notes = comparison("plain", "slow", "wrong", rounds=4, resume=True)
    run.run(rows, [case(bench), case(bench, "decode-8")])
    found = results.data["cases"]
    assert len(found["decode-1"]["rows"]["slow"]["values"]) == 2
    assert len(found["decode-8"]["rows"]["slow"]["values"]) == 4
    assert not any(note.startswith("decode-1") for note in notes)


def test_compilations_in_timed_calls_are_counted(bench, comparison):
    run, rows, results, _ = comparison("plain", "again", rounds=2)
    run.run(rows, [case(bench)])
    found = results.data["cases"]["decode-1"]["rows"]
    assert found["again"]["compiled_again"] == 4
    assert found[bench.cases.BASELINE]["compiled_again"] == 0


def test_report_is_printed_written_and_plotted(bench, comparison, tmp_path, capsys):
    run, rows, results, _ = comparison("plain", "slow", "wrong")
    rows[1] = bench.cases.Row("KerasHub TF, XLA", rows[1].environment, "fake.py", "slow",
                              rows[1].does)  # fmt: skip
    run.run(rows, [case(bench), case(bench, "decode-8"), case(bench, "sample-8")])
    results.data["imports"] = {"tensorflow": [3.0, 3.2], "tfgpt2": [3.5, 3.6]}
    bench.report.write(results.data, tmp_path)
    text = (tmp_path / "results.txt").read_text()
    assert "KerasHub TF, XLA" in text and "2.00" in text and "ValueError: no" in text
    assert text in capsys.readouterr().out
    assert (tmp_path / "results.png").read_bytes().startswith(b"\x89PNG")
    met = {what: (seen, ok) for what, seen, _, ok in bench.report.targets(results.data)}
    assert met["decode-1: KerasHub TF, XLA / tfgpt2 float32"] == (pytest.approx(2.0), True)
    assert met["top-p / greedy, batch 8"] == (pytest.approx(1.0), True)
    assert met["import: tfgpt2 beyond tensorflow, s"] == (pytest.approx(0.45), True)


def test_report_without_measurements(bench, tmp_path):
    results = bench.compare.Results(tmp_path / "results.json")
    bench.report.write(results.data, tmp_path)
    assert not (tmp_path / "results.png").exists()


def test_new_run_keeps_the_previous_results(bench, comparison, tmp_path):
    run, rows, old, _ = comparison("plain", rounds=1)
    run.run(rows, [case(bench)])
    _, _, new, _ = comparison("plain")
    new.save()
    assert json.loads((tmp_path / "results.before.json").read_text()) == old.data
    assert json.loads(new.path.read_text())["cases"] == {}


def test_sizes_are_one_case_one_process_at_a_time(bench, comparison, monkeypatch):
    run, _, results, _ = comparison("plain")
    (run.pool.here / "tfgpt2_model.py").write_text(FAKE)
    monkeypatch.setattr(bench.cases, "SIZES", {"gpt2": (12, 768), "gpt2-medium": (24, 1024)})
    bench.compare.measure_sizes(results, run.pool, 2, note=lambda line: None)
    found = results.data["cases"]["sizes"]["rows"]
    assert {name: len(entry["values"]) for name, entry in found.items()} == {
        "gpt2": 2,
        "gpt2-medium": 2,
    }
    rates = bench.report.rates(results.data)
    step = bench.roofline.step_bound(rates, 1, 40)
    assert bench.report.bound(results.data, "sizes", "gpt2") == pytest.approx(step)
    assert bench.report.bound(results.data, "sizes", "gpt2-medium") > 2 * step


def test_roofline_bounds(bench):
    rates = bench.roofline.Rates(bandwidth=47.0, matmul=1e9)
    weights = 12 * 12 * 768**2 + 50257 * 768  # of the 124M shape, without positions and biases
    assert bench.roofline.matrix_weights() == weights
    assert bench.roofline.step_bound(rates, 1, 0) == pytest.approx(4e3 * weights / 47e9)
    assert bench.roofline.step_bound(rates, 1, 0, 1) == pytest.approx(1e3 * weights / 47e9)
    cache = 8 * 64 * 2 * 12 * 768 * 4
    more = bench.roofline.step_bound(rates, 8, 64) - bench.roofline.step_bound(rates, 8, 0)
    assert more == pytest.approx(1e3 * cache / 47e9)
    slow = bench.roofline.Rates(bandwidth=1e9, matmul=100.0)
    assert bench.roofline.step_bound(slow, 32, 0) == pytest.approx(1e3 * 64 * weights / 1e11)
    assert bench.roofline.prefill_bound(slow, 512) == pytest.approx(
        1e3 * (2 * 512 * 12 * 12 * 768**2 + 2 * 50257 * 768 + 2 * 512**2 * 12 * 768) / 1e11
    )


def test_rates_are_measured(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    import roofline

    rates = roofline.measure(repeats=1, megabytes=8, side=64)
    assert rates.bandwidth > 0 and rates.matmul > 0


def test_rows_and_cases_are_selected_by_name(bench):
    rows, cases = bench.cases.chosen(["decode-8", "llama"], short=False)
    assert [case.name for case in cases] == ["decode-8"]
    assert [row.name for row in rows] == ["llama.cpp float32", "llama.cpp Q8_0"]
    rows, cases = bench.cases.chosen([], short=True)
    assert all(row.short for row in rows) and all(case.short for case in cases)
    with pytest.raises(ValueError, match="no such row or case"):
        bench.cases.chosen(["jax"], short=False)


def test_every_row_has_a_file_an_environment_and_known_cases(bench):
    names = {case.name for case in bench.cases.CASES}
    assert len(names) == len(bench.cases.CASES) == 12
    for row in bench.cases.ROWS:
        assert (FOLDER / "backends" / row.file).is_file()
        known = {bench.environments.OWN, *bench.environments.ENVIRONMENTS}
        assert row.environment in known
        assert set(row.cases) <= names
    rows = {row.name for row in bench.cases.ROWS}
    for name, slow, fast, _, _ in bench.report.TARGETS:
        assert name in names and {slow, fast} <= rows


def test_failed_environment_is_reported(bench, tmp_path, monkeypatch):
    calls = []

    def fails_at_pip(command, **_):
        calls.append(command)
        done = "venv" in command
        words = "" if done else "ERROR: No matching distribution found for none==9\n[notice] pip"
        return subprocess.CompletedProcess(command, int(not done), "", words)

    monkeypatch.setitem(bench.environments.ENVIRONMENTS, "none", ["none==9"])
    monkeypatch.setattr(bench.environments.subprocess, "run", fails_at_pip)
    reasons = bench.environments.ensure(["none", bench.environments.OWN], tmp_path)
    assert reasons == {"none": "none: ERROR: No matching distribution found for none==9"}
    assert calls[1][0] == str(tmp_path / "none" / "bin" / "python")
    assert not bench.environments.is_ready("none", tmp_path)


def test_environment_is_outdated_when_its_versions_change(bench, tmp_path, monkeypatch):
    (tmp_path / "torch").mkdir()
    mark = tmp_path / "torch" / "requirements.sha256"
    mark.write_text(bench.environments.fingerprint("torch"))
    assert bench.environments.is_ready("torch", tmp_path)
    monkeypatch.setitem(bench.environments.ENVIRONMENTS, "torch", ["torch==3"])
    assert not bench.environments.is_ready("torch", tmp_path)


def test_prompts_are_reproducible_and_end_of_text_is_never_generated(bench, monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER / "backends"))
    import checkpoint
    import protocol

    first, second = (protocol.prompts(2, 5) for _ in range(2))
    assert first.shape == (2, 5) and (first == second).all() and first.max() < protocol.VOCABULARY
    config = checkpoint.CONFIG | {"n_layer": 1, "n_embd": 8, "n_head": 2}
    tensors = checkpoint.tensors(config)
    assert not tensors["transformer.wte.weight"][config["eos_token_id"]].any()
    assert {"transformer.h.0.attn.c_attn.weight", "transformer.ln_f.bias"} <= set(tensors)


def test_backend_reports_errors_and_keeps_running(bench, monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(FOLDER / "backends"))
    import numpy as np
    import protocol

    class Toy(protocol.Backend):
        def decode(self, ids, new):
            return np.zeros((len(ids), new - (new == 3)), int)

    toy = Toy(tmp_path, "x")
    request = {"do": "decode", "batch": 2, "prompt": 4, "new": 2}
    found = protocol.answer(toy, request | {"tokens": True})
    assert found["tokens"] == [[0, 0], [0, 0]] and found["seconds"] >= 0
    assert "tokens" not in protocol.answer(toy, request)
    with pytest.raises(ValueError, match="expected"):
        protocol.answer(toy, request | {"new": 3})
    assert set(protocol.answer(toy, {"do": "memory"})) == {"rss_mb", "peak_mb"}
