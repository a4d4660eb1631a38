"""Running a command in this process."""

import pytest
from typer.testing import CliRunner

from tfgpt2.cli.main import app


@pytest.fixture
def run(monkeypatch):
    """Runs a command, which must succeed, and returns its standard output."""
    monkeypatch.setenv("TFGPT2_TRACEBACK", "1")

    def invoke(*arguments, stdin=None):
        result = CliRunner().invoke(app, [str(a) for a in arguments], input=stdin)
        assert result.exit_code == 0, (result.output, result.exception)
        return result.stdout

    return invoke
