"""Says of each site whether it works here, and what to write where it does not."""

from __future__ import annotations

import dataclasses
from typing import Any

from tfgpt2.errors import nearest
from tfgpt2.migrate import advice
from tfgpt2.migrate import introspect as ask
from tfgpt2.migrate.usage import Path, Site, Unknown

UNCHANGED, IMPORT, CHANGE, UNCLEAR, OTHER = "unchanged", "import", "change", "unclear", "other"
# Names of transformers that speak of GPT-2, of TensorFlow, or of whatever a checkpoint is.
_OURS = ("TFGPT2", "GPT2", "FlaxGPT2", "TFAuto", "FlaxAuto", "Auto", "TFTrain", "TFGener")


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What becomes of a site.

    Attributes:
        site: The site.
        status: `"unchanged"`, `"import"` (the import line changes, no more), `"change"`,
            `"unclear"` (only a run can tell) or `"other"` (no GPT-2; it stays as it is).
        why: Why it does not work as it is; empty where it does.
        write: What to write instead; empty where nothing is known.
    """

    site: Site
    status: str
    why: str = ""
    write: str = ""


def judge(site: Site) -> Verdict:
    """Judges one site.

    Example:
        >>> from tfgpt2.migrate.usage import find
        >>> judge(find("from transformers import create_optimizer")[0]).status
        'change'
    """
    if site.library in ("keras_hub", "gpt_2_simple"):
        return _other_library(site)
    if not site.path:
        return _import(site, "import tfgpt2 as ...")
    if site.path == ("*",):
        return Verdict(site, CHANGE, "`import *` hides what is used.", "name what you import")
    try:
        ask.public(site.path[0])
    except ask.Missing as missing:
        if site.library == "tfgpt2" and site.path[0].islower():
            return Verdict(site, UNCHANGED)  # a module of ours, or something inside one
        return _missing_name(site, missing)
    if site.traced and site.path[-1] == "generate":
        return Verdict(
            site,
            CHANGE,
            "generate() is compiled by itself and does not run inside tf.function.",
            "model.generate(...), without tf.function",
        )
    if site.kind == "import":
        home = ask.module_of(site.path[0])
        return _import(site, f"from {home} import {site.code.partition(' import ')[2]}")
    try:
        if site.kind == "attribute":
            ask.thing(site.path)
            return Verdict(site, UNCHANGED)
        refusal = ask.refusal(site.path, site.arguments, site.keywords)
    except ask.Missing as missing:
        return _missing_member(site, missing)
    except ask.Unclear:
        return Verdict(site, UNCHANGED)
    if refusal is None and _compiles_list(site):
        return Verdict(site, CHANGE, "A model has one loss here.",
                       "compile(optimizer), with labels among the inputs")  # fmt: skip
    if refusal is not None:
        why, _, _ = refusal.why.partition(" Known names:")  # long, and of little help here
        return Verdict(site, CHANGE, why, _keyword_advice(site.path, refusal.keyword))
    if not site.complete:
        return Verdict(site, UNCLEAR, "Its *arguments or **options are known to a run only.",
                       "look at what they hold")  # fmt: skip
    return Verdict(site, UNCHANGED)


def _import(site: Site, write: str) -> Verdict:
    """An import of what is here, from there or from here."""
    moved = site.library == "transformers"
    return Verdict(site, IMPORT, write=write) if moved else Verdict(site, UNCHANGED)


def _compiles_list(site: Site) -> bool:
    """Whether a model is compiled with one loss for each of its outputs."""
    loss = site.keywords.get("loss")
    is_list = isinstance(loss, (list, tuple)) or (isinstance(loss, Unknown) and loss.is_list)
    return site.path[-1] == "compile" and is_list


def _missing_name(site: Site, missing: ask.Missing) -> Verdict:
    write = advice.NAMES.get(missing.name, "")
    if not write and not missing.name.startswith(_OURS):
        return Verdict(site, OTHER, "Not of GPT-2; tfgpt2 has no such name.")
    why = f"tfgpt2 has no {missing.name!r}."
    return Verdict(site, CHANGE, why, write or _guess(missing))


def _missing_member(site: Site, missing: ask.Missing) -> Verdict:
    why = f"{_shown(site.path)} is not here."
    return Verdict(site, CHANGE, why, advice.MEMBERS.get(missing.name) or _guess(missing))


def _guess(missing: ask.Missing) -> str:
    guess = nearest(missing.name, missing.names)
    return guess.removeprefix("Did you mean ").strip("?'") if guess.startswith("Did") else ""


def _keyword_advice(path: Path, keyword: str | None) -> str:
    if keyword is None:
        return ""
    return advice.KEYWORDS.get((path[-1], keyword)) or advice.KEYWORDS.get(("()", keyword), "")


def _other_library(site: Site) -> Verdict:
    """KerasHub and gpt-2-simple have other names for everything, so all of it changes."""
    table: dict[str, Any] = {
        "keras_hub": advice.KERAS_HUB, "gpt_2_simple": advice.GPT_2_SIMPLE,
    }[site.library]  # fmt: skip
    if not site.path:
        return Verdict(site, CHANGE, f"This is {site.library}.", "import tfgpt2")
    names = [step for step in site.path if step != "()"]
    write = table.get(".".join(names[:2])) or table.get(names[0])
    if write is None and site.library == "keras_hub":
        return Verdict(site, OTHER, "Not of GPT-2; tfgpt2 has no such name.")
    return Verdict(site, CHANGE, f"This is {site.library}.", write or "")


def _shown(path: Path) -> str:
    """A path as a reader would write it."""
    return path[0] + "".join(step if step == "()" else f".{step}" for step in path[1:])
