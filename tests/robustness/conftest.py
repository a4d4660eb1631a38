"""Seeds, how many cases run, and the lines at the end that say how many did.

`ROBUSTNESS=n` multiplies the cases of every test and moves the seeds, so that `make robustness`
looks where the default suite does not.
"""

import os

import numpy as np
import pytest

TIMES = int(os.environ.get("ROBUSTNESS", "1"))


@pytest.fixture
def amount():
    """From the default number of cases to that of this run."""
    return lambda usual: usual * TIMES


@pytest.fixture
def generator():
    """From a seed to a generator of random numbers; failing tests print their seed."""

    def make(seed):
        print(f"seed {seed}")
        return np.random.default_rng([TIMES, seed])

    return make


@pytest.fixture
def count(record_property):
    """Notes how many cases of a kind ran; the run adds them up and prints the sums."""

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
