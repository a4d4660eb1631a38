"""`docs/explanations/walk-of-a-prompt.md` lists functions that are called, in that order."""

import re
import sys
from pathlib import Path

import tfgpt2
from tests.support.paths import DOCS, ROOT

PAGE = (DOCS / "explanations" / "walk-of-a-prompt.md").read_text(encoding="utf-8")
STATIONS = [
    (path, name.rpartition(".")[2])
    for path, name in re.findall(r"^\d+\. `(tfgpt2/[\w/]+\.py)`: `([\w.]+)`", PAGE, re.M)
]


def first_calls(function) -> dict[tuple[str, str], int]:
    """The functions of the package that a call reaches, numbered by their first call."""
    order: dict[tuple[str, str], int] = {}
    package = str(Path(tfgpt2.__file__).parent)

    def note(frame, event, _):
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(package):
            path = Path(code.co_filename).relative_to(ROOT).as_posix()
            order.setdefault((path, code.co_name), len(order))

    sys.setprofile(note)
    try:
        function()
    finally:
        sys.setprofile(None)
    return order


def test_the_stations_are_called_in_their_order():
    generator = tfgpt2.TextGenerator.from_pretrained("shakespeare-tiny", jit_compile=False)
    calls = first_calls(lambda: generator.generate("To be", max_new_tokens=4, seed=1))
    assert [one for one in STATIONS if one not in calls] == []
    assert STATIONS == sorted(STATIONS, key=calls.get)


def test_the_walk_is_short_and_never_returns_to_a_file():
    paths = [path for path, _ in STATIONS]
    assert 10 <= len(paths) <= 20 and len(set(paths)) == len(paths)
    numbers = re.findall(r"^(\d+)\. ", PAGE, re.M)
    assert numbers == [str(i + 1) for i in range(len(STATIONS))], "every item is a station"
