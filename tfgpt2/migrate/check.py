"""The check of a usage: whether it works with this package, and what to write if it does not."""

from __future__ import annotations

import dataclasses
from typing import Any

from tfgpt2.errors import nearest
from tfgpt2.migrate import advice, introspect
from tfgpt2.migrate.usage import Path, Unknown, Usage

UNCHANGED, IMPORT, CHANGE, UNCLEAR, OTHER = "unchanged", "import", "change", "unclear", "other"
# Prefixes of transformers' names for GPT-2, for TensorFlow, or for any model.
_RELATED = ("TFGPT2", "GPT2", "FlaxGPT2", "TFAuto", "FlaxAuto", "Auto", "TFTrain", "TFGener")


@dataclasses.dataclass(frozen=True)
class Finding:
    """Result of the check of a usage.

    Attributes:
        usage: The usage.
        status: `"unchanged"`, `"import"` (only the import line changes), `"change"`, `"unclear"`
            (depends on values at run time) or `"other"` (not about GPT-2, left as it is).
        why: Why it does not work; empty if it does.
        write: What to write instead; empty if unknown.
    """

    usage: Usage
    status: str
    why: str = ""
    write: str = ""


def check(usage: Usage) -> Finding:
    """Checks one usage.

    Example:
        >>> from tfgpt2.migrate.usage import find_usages
        >>> check(find_usages("from transformers import TextStreamer")[0]).status
        'change'
    """
    if usage.library in ("keras_hub", "gpt_2_simple"):
        return _other_library(usage)
    if not usage.path:
        return _import(usage, "import tfgpt2 as ...")
    if usage.path == ("*",):
        return Finding(
            usage, CHANGE, "`import *` hides which names are used.", "import names explicitly"
        )
    try:
        introspect.public(usage.path[0])
    except introspect.Missing as missing:
        if usage.library == "tfgpt2" and usage.path[0].islower():
            return Finding(usage, UNCHANGED)  # a module of this package, or a name in one
        return _missing_name(usage, missing)
    if usage.kind == "subscript":
        return Finding(usage, CHANGE, "A loss has the shape [], and no axis to index.", "out.loss")
    if usage.kind == "import":
        home = introspect.module_of(usage.path[0])
        return _import(usage, f"from {home} import {usage.code.partition(' import ')[2]}")
    try:
        if usage.kind == "attribute":
            introspect.resolve(usage.path)
            return Finding(usage, UNCHANGED)
        refusal = introspect.refusal(usage.path, usage.arguments, usage.keywords)
    except introspect.Missing as missing:
        return _missing_member(usage, missing)
    except introspect.Unclear:
        return Finding(usage, UNCHANGED)
    if refusal is None and _compiles_list(usage):
        return Finding(usage, CHANGE, "A model has a single loss.",
                       "compile(optimizer), with labels among the inputs")  # fmt: skip
    if refusal is not None:
        why, _, _ = refusal.why.partition(" Known names:")  # the list would be too long
        return Finding(usage, CHANGE, why, _keyword_advice(usage.path, refusal.keyword))
    if not usage.complete:
        return Finding(usage, UNCLEAR, "Its *arguments or **options are known only at run time.",
                       "check what they contain")  # fmt: skip
    return Finding(usage, UNCHANGED)


def _import(usage: Usage, write: str) -> Finding:
    """The finding of an import of an existing name, from transformers or from this package."""
    moved = usage.library == "transformers"
    return Finding(usage, IMPORT, write=write) if moved else Finding(usage, UNCHANGED)


def _compiles_list(usage: Usage) -> bool:
    """Whether a model is compiled with a list of losses."""
    loss = usage.keywords.get("loss")
    is_list = isinstance(loss, (list, tuple)) or (isinstance(loss, Unknown) and loss.is_list)
    return usage.path[-1] == "compile" and is_list


def _missing_name(usage: Usage, missing: introspect.Missing) -> Finding:
    write = advice.NAMES.get(missing.name, "")
    if not write and not missing.name.startswith(_RELATED):
        return Finding(usage, OTHER, "Not about GPT-2; tfgpt2 has no such name.")
    why = f"tfgpt2 has no {missing.name!r}."
    return Finding(usage, CHANGE, why, write or _nearest_name(missing))


def _missing_member(usage: Usage, missing: introspect.Missing) -> Finding:
    why = f"tfgpt2 has no {_dotted(usage.path)}."
    return Finding(usage, CHANGE, why, advice.MEMBERS.get(missing.name) or _nearest_name(missing))


def _nearest_name(missing: introspect.Missing) -> str:
    message = nearest(missing.name, missing.names)
    return message.removeprefix("Did you mean ").strip("?'") if "Did" in message else ""


def _keyword_advice(path: Path, keyword: str | None) -> str:
    if keyword is None:
        return ""
    return advice.KEYWORDS.get((path[-1], keyword)) or advice.KEYWORDS.get(("()", keyword), "")


def _other_library(usage: Usage) -> Finding:
    """Usages of KerasHub and gpt-2-simple, which share no names with this package."""
    table: dict[str, Any] = {
        "keras_hub": advice.KERAS_HUB, "gpt_2_simple": advice.GPT_2_SIMPLE,
    }[usage.library]  # fmt: skip
    if not usage.path:
        return Finding(usage, CHANGE, f"This is {usage.library}.", "import tfgpt2")
    names = [step for step in usage.path if step != "()"]
    method = f"{names[0]}.{names[-1]}"  # of the object, or of a part of it
    if method == "GPT2CausalLM.compile" and "sampler" in usage.keywords:
        method = "GPT2CausalLM.compile(sampler)"
    write = table.get(method) or table.get(names[0])
    if write is None and usage.library == "keras_hub":
        return Finding(usage, OTHER, "Not about GPT-2; tfgpt2 has no such name.")
    return Finding(usage, CHANGE, f"This is {usage.library}.", write or "")


def _dotted(path: Path) -> str:
    """A path in dotted notation."""
    return path[0] + "".join(step if step == "()" else f".{step}" for step in path[1:])
