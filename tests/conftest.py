"""Fixtures of all tests, who runs them, and the summary of the figures that they record."""

import gc
import os
from pathlib import Path

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

# Folders whose files share an export or a server that takes long to make.
ONE_WORKER = ("tests/serving/export", "tests/serving/server", "tests/litert")


def pytest_configure(config):
    """Makes the suite without the long proofs compile quickly rather than well.

    Most of its programs run once or twice, so optimising them takes longer than running them. The
    long proofs run every test with the settings that users have.
    """
    if config.option.markexpr != "not long":
        return
    os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
    gc.set_threshold(100_000, 20, 20)  # tracing makes many objects and little garbage
    workers = getattr(config.option, "numprocesses", None)  # of pytest-xdist, if it is there
    if hasattr(config, "workerinput") or not workers:  # this process runs tests
        import tensorflow as tf

        import tfgpt2.text.generator  # noqa: F401  with what it imports

        gc.freeze()  # what modules hold is never garbage
        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Gives each file to one worker, and the files of some folders to the same one."""
    from xdist.scheduler import LoadFileScheduling

    class ByFileOrFolder(LoadFileScheduling):
        def _split_scope(self, nodeid):
            file = super()._split_scope(nodeid)
            return next((folder for folder in ONE_WORKER if file.startswith(folder)), file)

    return ByFileOrFolder(config, log)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data; tests that need it are skipped where it is missing."""
    repository = Path(__file__).resolve().parent.parent
    default = repository.parent / "shared" / "data"
    folder = Path(os.environ.get("TFGPT2_TEST_DATA") or default)
    if not folder.is_dir():
        pytest.skip("no shared data: set TFGPT2_TEST_DATA")
    return folder


@pytest.fixture
def figure(record_property):
    """Returns a function that records a named number; the summary prints the largest of each."""

    def record(name: str, value: float) -> None:
        record_property("figure", (name, float(value)))

    return record


def pytest_terminal_summary(terminalreporter):
    largest: dict[str, float] = {}
    for report in terminalreporter.getreports("passed") + terminalreporter.getreports("failed"):
        # From the reports, since tests may run in several processes.
        for kind, entry in report.user_properties if report.when == "call" else ():
            if kind == "figure":
                largest[entry[0]] = max(entry[1], largest.get(entry[0], 0.0))
    if largest:
        terminalreporter.section("largest figures")
        for name, value in sorted(largest.items()):
            terminalreporter.write_line(f"{value:8.3g}  {name}")
