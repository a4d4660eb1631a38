"""The report of an export, in a terminal and in a notebook."""

import io
from pathlib import Path

from rich.console import Console

from tfgpt2.serving.export.report import ExportReport

REPORT = ExportReport(Path("models/[a]<b>/1"), ("generate",), 7.25, True, "int8", ("AddV2",))


def test_terminal_and_notebook_show_the_same_lines():
    console = Console(file=io.StringIO(), width=80, record=True)
    console.print(REPORT)
    text, page = console.export_text(), REPORT._repr_html_()
    assert "models/[a]<b>/1" in text and "7.2 MB, weights in int8" in text
    assert "<td>models/[a]&lt;b&gt;/1</td>" in page and "7.2 MB, weights in int8" in page
    assert page.count("<tr>") == len(text.strip().splitlines())
