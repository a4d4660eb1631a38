"""Report of a comparison: tables in the terminal and as text, targets, and a plot.

python benchmarks/report.py [results.json]      # print saved results again
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import cases as work
import roofline
from cases import BASELINE
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).resolve().parent

# Targets: case, slower row, faster row, and the least (or most) ratio of their times.
TARGETS: tuple[tuple[str, str, str, str, float], ...] = (
    ("decode-1", "transformers 4 TF, XLA", BASELINE, "least", 1.2),
    ("decode-1", "KerasHub TF, XLA", BASELINE, "least", 1.4),
    ("decode-1", "CTranslate2 float32", BASELINE, "least", 1.3),
    ("decode-1", "PyTorch eager", BASELINE, "least", 2.0),
    ("decode-8", "transformers 4 TF, XLA", BASELINE, "least", 1.7),
    ("decode-8", "KerasHub TF, XLA", BASELINE, "least", 1.7),
    ("decode-8", "CTranslate2 float32", BASELINE, "least", 1.4),
    ("decode-8", "llama.cpp float32", BASELINE, "least", 1.0),
    ("decode-32", "transformers 4 TF, XLA", BASELINE, "least", 1.7),
    ("decode-32", "KerasHub TF, XLA", BASELINE, "least", 1.7),
    ("decode-32", "CTranslate2 float32", BASELINE, "least", 1.4),
    ("decode-32", "llama.cpp float32", BASELINE, "least", 1.0),
    ("decode-1", "CTranslate2 int8", "tfgpt2 int8", "least", 1.4),
    ("decode-8", "CTranslate2 int8", "tfgpt2 int8", "least", 1.7),
    ("decode-8", "llama.cpp Q8_0", "tfgpt2 int8", "least", 1.0),
    ("decode-1", "tfgpt2 bfloat16", BASELINE, "most", 0.65),
    ("decode-1", "tfgpt2 float16", BASELINE, "most", 0.65),
)
_PREFILL_ROWS = ("transformers 4 TF, XLA", "KerasHub TF, XLA", "PyTorch eager",
                  "PyTorch compile", "CTranslate2 float32", "llama.cpp float32",
                  "ONNX Runtime float32")  # fmt: skip


def rates(data: dict[str, Any]) -> roofline.Rates | None:
    """The machine's rates: the highest measured, because they are upper bounds."""
    if not data.get("rates"):
        return None
    return roofline.Rates(
        *(max(r[name] for r in data["rates"]) for name in ("bandwidth", "matmul"))
    )


def values(data: dict[str, Any], case: str, row: str) -> list[float]:
    """Measurements of a row, one per round."""
    return data["cases"].get(case, {}).get("rows", {}).get(row, {}).get("values", [])


def median(data: dict[str, Any], case: str, row: str) -> float | None:
    """Median of a row's measurements."""
    found = values(data, case, row)
    return statistics.median(found) if found else None


def ratio(data: dict[str, Any], case: str, row: str, base: str = BASELINE) -> float | None:
    """Ratio of the times of two rows, the median over rounds.

    Both were measured within seconds of each other, so a slowdown of the machine between rounds
    cancels out.
    """
    pairs = zip(values(data, case, row), values(data, case, base), strict=False)
    found = [a / b for a, b in pairs if b > 0]
    return statistics.median(found) if found else None


def bound(data: dict[str, Any], case: str, row: str) -> float | None:
    """Roofline bound of a case for the 124M shape and a row's weight size, in milliseconds."""
    if case == work.SIZES_CASE.name:
        return _size_bound(data, row)
    known = {r.name: r for r in work.ROWS}.get(row)
    limits, about = rates(data), {c.name: c for c in (*work.CASES, work.PREFILL_32)}.get(case)
    if limits is None or known is None or about is None or data["about"].get("mode") == "tiny":
        return None
    request = dict(about.request)
    if about.do == "decode" and case.startswith("prefill"):
        length = request["prompt"]
        step = roofline.step_bound(limits, 1, length, known.weight_bytes)
        return roofline.prefill_bound(limits, length, known.weight_bytes) + step
    if about.do in ("decode", "sample"):
        columns = request["prompt"] + request["new"] / 2
        return roofline.step_bound(limits, request["batch"], columns, known.weight_bytes)
    return None


def _size_bound(data: dict[str, Any], name: str) -> float | None:
    """Roofline bound of a float32 step of a published size."""
    limits, shape = rates(data), work.SIZES.get(name)
    if limits is None or shape is None:
        return None
    layers, width = shape
    sizes = {"n_layer": layers, "n_embd": width, "vocab_size": roofline.SHAPE["vocab_size"]}
    return roofline.step_bound(limits, 1, 40, shape=sizes)


def targets(data: dict[str, Any]) -> list[tuple[str, float, str, bool]]:
    """The targets with measurements: title, ratio, required ratio, whether it is met."""
    found = []
    for case, slow, fast, kind, limit in TARGETS:
        seen = ratio(data, case, slow, fast)
        if seen is None:
            continue
        met = seen >= limit if kind == "least" else seen <= limit
        found.append((f"{case}: {slow} / {fast}", seen, f"at {kind} {limit:g}", met))
    own = median(data, "decode-1", BASELINE)
    least = bound(data, "decode-1", BASELINE)
    if own and least:
        found.append(("decode-1: tfgpt2 float32 / roofline", own / least, "at most 1.25",
                      own / least <= 1.25))  # fmt: skip
    greedy, drawn = median(data, "decode-8", BASELINE), median(data, "sample-8", BASELINE)
    if greedy and drawn:
        cost = drawn / greedy
        found.append(("top-p / greedy, batch 8", cost, "at most 1.05", cost <= 1.05))
    small, large = (median(data, f"buffer-{n}", BASELINE) for n in (128, 1024))
    if small and large:
        found.append(
            ("buffer of 1024 / of 128", large / small, "at most 1.1", large <= 1.1 * small)
        )
    rivals = [ratio(data, "prefill-512", name) for name in _PREFILL_ROWS]
    if any(rivals):
        best = min(rival for rival in rivals if rival)
        found.append(("prefill-512: best other / tfgpt2 float32", best, "at least 1", best >= 1))
    found += _start_targets(data)
    return found


def _start_targets(data: dict[str, Any]) -> list[tuple[str, float, str, bool]]:
    """The targets of imports and first calls."""
    found = []
    rows = data["cases"].get("decode-1", {}).get("rows", {})
    ours, theirs = (
        rows.get(n, {}).get("first_seconds") for n in (BASELINE, "transformers 4 TF, XLA")
    )
    if ours and theirs:
        share = ours / theirs
        found.append(("first call: tfgpt2 / transformers 4 TF", share, "at most 0.5", share <= 0.5))
    imports = data.get("imports", {})
    if imports.get("tfgpt2") and imports.get("tensorflow"):
        pairs = zip(imports["tfgpt2"], imports["tensorflow"], strict=False)
        more = statistics.median(a - b for a, b in pairs)
        found.append(("import: tfgpt2 beyond tensorflow, s", more, "at most 0.7", more <= 0.7))
    return found


def case_table(data: dict[str, Any], name: str) -> Table:
    """The table of one case, fastest first."""
    case = data["cases"][name]
    table = Table(title=f"{case['title']} ({name})", title_justify="left")
    columns = (case["unit"], "spread", "x tfgpt2", "x roofline", "first call s", "same tokens")
    table.add_column("row")
    for column in columns:
        table.add_column(column, justify="right")
    errors: list[str] = []
    order = sorted(case["rows"], key=lambda row: median(data, name, row) or float("inf"))
    for row in order:
        entry = case["rows"][row]
        if not entry["values"]:
            table.add_row(row, "failed")
            errors.append(
                f"{row}: {entry.get('error', 'interrupted before its first measurement')}"
            )
            continue
        middle, least = median(data, name, row), bound(data, name, row)
        same = f"{entry['same_tokens']}/{entry['all_tokens']}" if "same_tokens" in entry else ""
        if entry.get("compiled_again"):
            same += f" compiled again: {entry['compiled_again']}"
        table.add_row(
            row,
            f"{middle:.1f}",
            f"{min(entry['values']):.1f}-{max(entry['values']):.1f}",
            _number(ratio(data, name, row)),
            _number(middle / least if least else None),
            _number(entry.get("first_seconds"), 1),
            same,
            style="bold" if row == BASELINE else None,
        )
    table.caption, table.caption_justify = "\n".join(errors) or None, "left"
    return table


def _number(value: float | None, digits: int = 2) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def import_table(data: dict[str, Any]) -> Table:
    """Table of import times."""
    table = Table(title="imports in new processes, seconds", title_justify="left")
    for column in ("library", "median", "spread"):
        table.add_column(column, justify="left" if column == "library" else "right")
    for name, found in data["imports"].items():
        table.add_row(name, f"{statistics.median(found):.2f}", f"{min(found):.2f}-{max(found):.2f}")
    return table


def load_table(data: dict[str, Any]) -> Table:
    """Table of loading times and memory, a line per row."""
    table = Table(title="loading the checkpoint, once; MB are 10^6 bytes", title_justify="left")
    columns = ("row", "version", "import s", "load s", "libraries MB", "loaded MB", "peak MB")
    for column in columns:
        table.add_column(column, justify="left" if column == "row" else "right")
    for name, found in data["rows"].items():
        if "load" in found:
            table.add_row(
                name,
                found.get("version", ""),
                _number(found.get("import_seconds")),
                _number(found["load"]["seconds"]),
                _number(found.get("libraries_mb"), 0),
                _number(found["load"]["rss_mb"], 0),
                _number(found.get("peak_mb"), 0),
            )
    return table


def target_table(data: dict[str, Any]) -> Table:
    """Table of the targets."""
    table = Table(title="targets", title_justify="left")
    for column in ("target", "measured", "required", ""):
        table.add_column(column, justify="left" if column == "target" else "right")
    for title, measured, required, met in targets(data):
        table.add_row(title, f"{measured:.2f}", required, "met" if met else "MISSED")
    return table


def show(data: dict[str, Any], console: Console) -> None:
    """Print all tables."""
    for name, value in data["about"].items():
        console.print(f"{name}: {value}", highlight=False)
    limits = rates(data)
    if limits is not None:
        console.print(
            f"memory bandwidth {limits.bandwidth:.1f} GB/s, float32 matrix products"
            f" {limits.matmul:.0f} GFLOP/s (NumPy, two threads)",
            highlight=False,
        )
    for kind, found in data.get("left_out", {}).items():
        if found:
            console.print(f"skipped {kind}: {found}", highlight=False)
    if data["imports"]:
        console.print(import_table(data))
    console.print(load_table(data))
    for name in data["cases"]:
        console.print(case_table(data, name))
    if targets(data):
        console.print(target_table(data))


def plot(data: dict[str, Any], path: Path) -> None:
    """Plot the cases as bars, fastest first, with the roofline bound as a line."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = [n for n, case in data["cases"].items()
             if any(entry["values"] for entry in case["rows"].values())]  # fmt: skip
    if not names:
        return
    columns = min(3, len(names))
    lines = -(-len(names) // columns)
    figure, axes = pyplot.subplots(
        lines, columns, figsize=(5.2 * columns, 3.4 * lines), squeeze=False
    )
    for axis in axes.flat[len(names) :]:
        axis.set_visible(False)
    for axis, name in zip(axes.flat, names, strict=False):
        case = data["cases"][name]
        rows = [row for row in case["rows"] if values(data, name, row)]
        rows.sort(key=lambda row: -median(data, name, row))  # noqa: B023
        middles = [median(data, name, row) for row in rows]
        spread = [
            [m - min(values(data, name, row)) for m, row in zip(middles, rows, strict=True)],
            [max(values(data, name, row)) - m for m, row in zip(middles, rows, strict=True)],
        ]
        colors = ["#c44e52" if row.startswith("tfgpt2") else "#8c9bb5" for row in rows]
        axis.barh(rows, middles, xerr=spread, color=colors, ecolor="#555555")
        least = bound(data, name, BASELINE)
        if least is not None:
            axis.axvline(least, color="black", linestyle=":", linewidth=1)
        axis.set_title(f"{case['title']}, {case['unit']}", fontsize=9)
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle(
        f"GPT-2 124M, {data['about'].get('cpus')} cores, {data['about'].get('date')};"
        " dotted: float32 roofline",
        fontsize=9,
    )
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def write(data: dict[str, Any], folder: Path) -> None:
    """Print the tables, and write them and the plot next to the results."""
    console = Console(record=True, width=None if Console().is_terminal else 110)
    show(data, console)
    (folder / "results.txt").write_text(console.export_text())
    plot(data, folder / "results.png")
    print(f"written: {folder / 'results.json'}, results.txt, results.png")


def main() -> None:
    """Print saved results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path, nargs="?", default=HERE / "results" / "results.json")
    path = parser.parse_args().results
    write(json.loads(path.read_text()), path.parent)


if __name__ == "__main__":
    main()
