"""Seeds, number of cases, and a summary of the cases that ran.

`ROBUSTNESS=n` multiplies the cases of every test and changes the seeds, so that `make robustness`
runs other cases than the default suite.
"""

import os

import numpy as np
import pytest

TIMES = int(os.environ.get("ROBUSTNESS", "1"))


@pytest.fixture
def amount():
    """Converts the default number of cases to that of this run."""
    return lambda usual: usual * TIMES


@pytest.fixture
def generator():
    """Makes a random generator from a seed, which failing tests print."""

    def make(seed):
        print(f"seed {seed}")
        return np.random.default_rng([TIMES, seed])

    return make


@pytest.fixture
def count(record_property):
    """Records how many cases of a kind ran, for the summary."""

    def note(name, number):
        record_property("cases", (name, int(number)))

    return note


def pytest_terminal_summary(terminalreporter):
    sums: dict[str, int] = {}
    for report in terminalreporter.getreports("passed") + terminalreporter.getreports("failed"):
        for kind, entry in report.user_properties if report.when == "call" else ():
            if kind == "cases":
                sums[entry[0]] = sums.get(entry[0], 0) + entry[1]
    if sums:
        terminalreporter.section("robustness: cases that ran")
        for name, number in sorted(sums.items()):
            terminalreporter.write_line(f"{number:8,}  {name}")
