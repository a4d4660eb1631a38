"""What every test may ask for."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real inputs; tests that need it are skipped where it is absent."""
    here = Path(__file__).resolve().parent.parent
    folder = Path(os.environ.get("TFGPT2_TEST_DATA") or here.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip("no shared data: set TFGPT2_TEST_DATA")
    return folder


@pytest.fixture
def figure(record_property):
    """Notes a number under a name; the run prints the largest of each name at its end."""

    def note(name: str, value: float) -> None:
        record_property("figure", (name, float(value)))

    return note


def pytest_terminal_summary(terminalreporter):
    largest: dict[str, float] = {}
    for report in terminalreporter.getreports("passed") + terminalreporter.getreports("failed"):
        # The reports and not a list of our own: tests may run in several processes.
        for kind, entry in report.user_properties if report.when == "call" else ():
            if kind == "figure":
                largest[entry[0]] = max(entry[1], largest.get(entry[0], 0.0))
    if largest:
        terminalreporter.section("largest figures")
        for name, value in sorted(largest.items()):
            terminalreporter.write_line(f"{value:8.3g}  {name}")
