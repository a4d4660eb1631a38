"""Usages of transformers, KerasHub and gpt-2-simple in a program, which is not executed.

An object of a library is identified by a path: `("TFGPT2LMHeadModel",)` is the class,
`("TFGPT2LMHeadModel", "()")` an instance, `("TFGPT2LMHeadModel", "()", "generate")` its method.
Names are followed through imports, assignments, annotations, `with`, `tf.function` and `partial`,
not through calls of the program's own functions.
"""

from __future__ import annotations

import ast
import dataclasses
from typing import Any

# Top-level modules whose usages are found, and their library.
LIBRARIES = {
    "transformers": "transformers",
    "keras_hub": "keras_hub",
    "keras_nlp": "keras_hub",
    "gpt_2_simple": "gpt_2_simple",
    "tfgpt2": "tfgpt2",
}
# Class methods that return an instance.
_CONSTRUCTORS = ("from_pretrained", "from_config", "from_tokenizer", "from_preset", "from_dict")
# Functions whose result calls their first argument.
_WRAPPERS = ("tf.function", "tensorflow.function", "functools.partial", "partial")
_LONGEST_CODE = 90  # characters of a usage that a report shows


@dataclasses.dataclass(frozen=True)
class Unknown:
    """The value of an argument that is not a literal.

    Attributes:
        is_list: Whether it is a list or tuple.
    """

    is_list: bool = False

    def __repr__(self) -> str:
        return "[...]" if self.is_list else "..."


UNKNOWN = Unknown()
Path = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Reference:
    """What an expression refers to: a library, and the path inside it (empty for modules)."""

    library: str
    path: Path = ()


@dataclasses.dataclass(frozen=True)
class Usage:
    """One place of a program that uses a library.

    Attributes:
        kind: `"import"`, `"call"`, `"attribute"` or `"subscript"` (of a result's loss).
        line: From 1.
        column: From 0.
        code: The source code there, on one line and truncated when long.
        library: One of the values of `LIBRARIES`.
        path: The path of the object.
        arguments: Values of the positional arguments, `Unknown` unless they are literals.
        keywords: Values of the keyword arguments, likewise.
        complete: Whether these are all arguments: no `*rows`, no `**options` of unknown content.
    """

    kind: str
    line: int
    column: int
    code: str
    library: str
    path: Path
    arguments: tuple[Any, ...] = ()
    keywords: dict[str, Any] = dataclasses.field(default_factory=dict)
    complete: bool = True


def find_usages(source: str) -> list[Usage]:
    r"""Lists the usages in a program, in the order of its lines.

    Args:
        source: The source code.

    Raises:
        SyntaxError: The source is not Python 3.

    Example:
        >>> [usage.path for usage in find_usages("import transformers as t\nt.TFGPT2Model()")]
        [(), ('TFGPT2Model',)]
    """
    tree = ast.parse(source)
    finder = _Finder(source)
    finder.visit(tree)  # the first pass resolves names, including those assigned further down
    finder.usages.clear()
    finder.visit(tree)
    return sorted(finder.usages, key=lambda usage: (usage.line, usage.column))


def object_path(module: str, name: str = "") -> Path:
    """The path of a dotted name, without its modules."""
    parts = [*module.split("."), *([name] if name else [])][1:]
    while len(parts) > 1 and parts[0].islower():
        parts = parts[1:]
    return tuple(parts)


class _Finder(ast.NodeVisitor):
    """Visitor that collects usages and resolves names."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.usages: list[Usage] = []
        self.names: list[dict[str, Reference]] = [{}]
        self.functions: dict[ast.AST, dict[str, Reference]] = {}

    # References ----------------------------------------------------------------------------

    def reference(self, node: ast.AST | None) -> Reference | None:
        """What an expression refers to, if that is known."""
        if isinstance(node, ast.Name):
            return self.known(node.id)
        if isinstance(node, ast.Attribute):
            held = self.known(ast.unparse(node))
            base = self.reference(node.value)
            if held is not None or base is None:
                return held
            parts = (*base.path, node.attr)
            if "()" not in parts and len(parts) > 1 and parts[0].islower():
                parts = parts[1:]  # a module of the library
            return Reference(base.library, parts)
        if isinstance(node, ast.Call):
            if ast.unparse(node.func) in _WRAPPERS:
                return self.reference(node.args[0]) if node.args else None
            called = self.reference(node.func)
            if called is None or not called.path:
                return None
            path = called.path
            constructor = len(path) > 1 and path[-1] in _CONSTRUCTORS
            return Reference(called.library, (*(path[:-1] if constructor else path), "()"))
        return None

    def known(self, name: str) -> Reference | None:
        """What a name refers to, in the innermost scope that has it."""
        return next((scope[name] for scope in reversed(self.names) if name in scope), None)

    def bind(self, target: ast.AST, value: Reference | None) -> None:
        """Records what a name refers to from here on."""
        if isinstance(target, (ast.Name, ast.Attribute)):
            name = ast.unparse(target)
            # Attributes are shared by the methods of a class.
            scope = self.names[-1 if isinstance(target, ast.Name) else 0]
            if value is not None:
                scope[name] = value
            elif isinstance(target, ast.Name):
                scope.pop(name, None)

    # Statements --------------------------------------------------------------------------------

    def visit_Import(self, node: ast.Import) -> None:  # noqa: D102
        for alias in node.names:
            root = alias.name.split(".")[0]
            if root in LIBRARIES:
                path = object_path(alias.name) if alias.asname else ()
                path = path if path and not path[-1].islower() else ()
                self.names[-1][alias.asname or root] = Reference(LIBRARIES[root], path)
                self.add("import", node, Reference(LIBRARIES[root], path), alias=alias)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:  # noqa: D102
        root = (node.module or "").split(".")[0]
        if root not in LIBRARIES or node.level:
            return
        for alias in node.names:
            found = Reference(LIBRARIES[root], object_path(node.module or "", alias.name))
            self.names[-1][alias.asname or alias.name] = found
            self.add("import", node, found, alias=alias)

    def visit_Assign(self, node: ast.Assign) -> None:  # noqa: D102
        self.visit(node.value)
        for target in node.targets:
            self.visit(target)
            self.bind(target, self.reference(node.value))

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:  # noqa: D102
        self.generic_visit(node)
        self.bind(node.target, self.reference(node.value) or self._annotated(node.annotation))

    def visit_With(self, node: ast.With) -> None:  # noqa: D102
        for item in node.items:
            if item.optional_vars is not None:
                self.bind(item.optional_vars, self.reference(item.context_expr))
        self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:  # noqa: D102
        for part in (*node.decorator_list, *node.args.defaults, *node.args.kw_defaults):
            if part is not None:
                self.visit(part)
        self.names.append(self.functions.setdefault(node, {}))
        for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs):
            self.bind(ast.Name(argument.arg), self._annotated(argument.annotation))
        for statement in node.body:
            self.visit(statement)
        self.names.pop()

    visit_AsyncFunctionDef = visit_FunctionDef

    def _annotated(self, annotation: ast.AST | None) -> Reference | None:
        found = self.reference(annotation)
        return Reference(found.library, (*found.path, "()")) if found and found.path else None

    # Usages ------------------------------------------------------------------------------------

    def visit_Call(self, node: ast.Call) -> None:  # noqa: D102
        called = self.reference(node.func)
        if called is not None and called.path:
            self.add("call", node, called, **self._arguments(node))
            self.visit(_root(node.func))
        else:
            self.visit(node.func)
        for argument in (*node.args, *node.keywords):
            self.visit(argument)

    def visit_Subscript(self, node: ast.Subscript) -> None:  # noqa: D102
        found = self.reference(node.value)
        if found is not None and found.path[-3:] == ("()", "()", "loss"):
            self.add("subscript", node, found)
        self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:  # noqa: D102
        found = self.reference(node)
        if found is not None and found.path:
            self.add("attribute", node, found)
        self.visit(_root(node))

    def _arguments(self, node: ast.Call) -> dict[str, Any]:
        complete, keywords = True, {}
        for keyword in node.keywords:
            if keyword.arg is not None:
                keywords[keyword.arg] = _value(keyword.value)
            elif isinstance(keyword.value, ast.Dict) and all(
                isinstance(key, ast.Constant) for key in keyword.value.keys
            ):
                pairs = zip(keyword.value.keys, keyword.value.values, strict=True)
                keywords |= {str(key.value): _value(value) for key, value in pairs}
            else:  # the output of a tokenizer is a valid input of a model
                given = self.reference(keyword.value)
                complete &= given is not None and given.path[-2:] == ("()", "()")
        starred = any(isinstance(argument, ast.Starred) for argument in node.args)
        arguments = tuple(_value(a) for a in node.args if not isinstance(a, ast.Starred))
        return {"arguments": arguments, "keywords": keywords, "complete": complete and not starred}

    def add(
        self, kind: str, node: Any, found: Reference | None, alias: Any = None, **more: Any
    ) -> None:
        """Records a usage of a library; of an import, the part with one of its names."""
        if found is None or found.library not in LIBRARIES.values():
            return
        code = " ".join((ast.get_source_segment(self.source, node) or "").split())
        if isinstance(node, ast.ImportFrom):
            code = f"from {node.module} import {ast.unparse(alias)}"
        code = code if len(code) <= _LONGEST_CODE else f"{code[: _LONGEST_CODE - 3]}..."
        where = (node.lineno, node.col_offset)
        self.usages.append(Usage(kind, *where, code, found.library, found.path, **more))


def _root(node: ast.AST) -> ast.AST:
    """The expression before all dots; the parts between are not usages by themselves."""
    while isinstance(node, ast.Attribute):
        node = node.value
    return node


def _value(node: ast.AST) -> Any:
    """The value of a literal, else `Unknown`."""
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return Unknown(isinstance(node, (ast.List, ast.Tuple)))
