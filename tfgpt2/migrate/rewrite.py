"""Rewriting of a program's import lines, if nothing else has to change."""

from __future__ import annotations

import ast
import difflib
import re

from tfgpt2.migrate import introspect
from tfgpt2.migrate.check import CHANGE, IMPORT, OTHER, Finding
from tfgpt2.migrate.usage import object_path

_FROM_LIBRARY = re.compile(r"(from\s+)transformers(?:\.\w+)*(\s+import)")


def rewrite_imports(source: str, findings: list[Finding]) -> str | None:
    """Rewrites the import lines of a program.

    Args:
        source: The program.
        findings: The findings of its usages.

    Returns:
        The new program; None if something else has to change, or if an import must be split by
        hand.

    Example:
        >>> from tfgpt2.migrate.check import check
        >>> from tfgpt2.migrate.usage import find_usages
        >>> text = "from transformers import TFGPT2Model as M  # here"
        >>> rewrite_imports(text, [check(usage) for usage in find_usages(text)])
        'from tfgpt2 import TFGPT2Model as M  # here'
    """
    if any(finding.status == CHANGE for finding in findings):
        return None
    if not any(finding.status == IMPORT for finding in findings):
        return source
    # As bytes, since the parser counts columns in UTF-8.
    lines = source.encode().splitlines(keepends=True)
    imports = [
        n for n in ast.walk(ast.parse(source)) if isinstance(n, (ast.Import, ast.ImportFrom))
    ]
    uses_others = any(finding.status == OTHER for finding in findings)
    for node in sorted(imports, key=lambda n: n.lineno, reverse=True):
        old = _text(lines, node)
        new = _import_line(node, old, uses_others)
        if new is None:
            return None
        if new != old:
            _replace(lines, node, new)
    return b"".join(lines).decode()


def diff(old: str, new: str, name: str) -> str:
    """The change as a unified diff."""
    return "".join(
        difflib.unified_diff(
            old.splitlines(keepends=True), new.splitlines(keepends=True), name, name, n=0
        )
    )


def _import_line(node: ast.Import | ast.ImportFrom, old: str, uses_others: bool) -> str | None:
    """The new text of an import; the old one if it does not change; None if it is ambiguous."""
    if isinstance(node, ast.Import):
        if not any(alias.name.split(".")[0] == "transformers" for alias in node.names):
            return old
        alias = node.names[0]
        if len(node.names) > 1 or alias.name != "transformers" or uses_others:
            return None
        return f"import tfgpt2 as {alias.asname or 'transformers'}"
    if node.level or (node.module or "").split(".")[0] != "transformers":
        return old
    homes: dict[str, list[str]] = {}
    for alias in node.names:
        try:
            name = object_path(node.module or "", alias.name)[-1]
            introspect.public(name)
            home = introspect.module_of(name)
        except introspect.Missing:
            home = node.module or ""
        text = f"{alias.name} as {alias.asname}" if alias.asname else alias.name
        homes.setdefault(home, []).append(text)
    if len(homes) == 1:
        # The rest of the line is kept, including comments between the names.
        return _FROM_LIBRARY.sub(rf"\g<1>{next(iter(homes))}\g<2>", old, count=1)
    if "#" in old:
        return None
    indent = "\n" + " " * node.col_offset
    return indent.join(f"from {home} import {', '.join(names)}" for home, names in homes.items())


def _text(lines: list[bytes], node: ast.stmt) -> str:
    """The text of a statement, which may span several lines."""
    taken = lines[node.lineno - 1 : node.end_lineno]
    taken[-1] = taken[-1][: node.end_col_offset]
    taken[0] = taken[0][node.col_offset :]
    return b"".join(taken).decode()


def _replace(lines: list[bytes], node: ast.stmt, new: str) -> None:
    """Replaces the text of a statement."""
    before = lines[node.lineno - 1][: node.col_offset]
    after = lines[node.end_lineno - 1][node.end_col_offset :]
    lines[node.lineno - 1 : node.end_lineno] = [before + new.encode() + after]
