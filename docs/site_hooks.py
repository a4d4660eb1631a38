"""Hooks of the mkdocs build: generated pages and rewritten links.

    reference/api/*             from the groups of `tfgpt2.__init__._PUBLIC` and the docstrings
    reference/command-line.md   from the commands' help texts
    reference/*, project/*      from pages next to the code, such as saved_models/README.md
    tutorials/*.ipynb           a notebook of each tutorial

Links between pages are written for the repository. Those that leave docs/ are rewritten to the page
of the site, or to plain text if the site has no such page.
"""

from __future__ import annotations

import os
import posixpath
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "docs"))  # where mkdocs does not look
import notebooks  # noqa: E402

# Page of the repository -> page of the site.
NOTES = "project/notes/"
SITE_PAGES = {
    "README.md": "index.md",
    "saved_models/README.md": "reference/signatures.md",
    "serving/README.md": "reference/deployment.md",
    "benchmarks/README.md": "project/benchmarks.md",
    "SECURITY.md": "project/security.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "CHANGELOG.md": "project/changelog.md",
    **{
        f"benchmarks/notes/{path.name}": NOTES + path.name
        for path in sorted((ROOT / "benchmarks" / "notes").glob("*.md"))
    },
}
API = "reference/api/"
TUTORIALS = "tutorials/"
COMMANDS = "reference/command-line.md"
# Base classes and return types of the groups.
RELATED = {
    "configuration and results": ("tfgpt2.outputs",),
    "strings <-> ids": (
        "tfgpt2.tokenizers.layer.Tokenizer",
        "tfgpt2.tokenizers.byte_level_bpe.ByteLevelBPETokenizer",
    ),
    "models": (
        "tfgpt2.models.base.TFGPT2PreTrainedModel",
        "tfgpt2.models.trainable.TrainableModel",
    ),
    "generation": ("tfgpt2.text.generation.Generation",),
}
# Public modules whose names the package itself does not export.
MODULES = {
    "Serving clients and exports": (
        "tfgpt2.serving.client.client.Client",
        "tfgpt2.serving.client.records",
        "tfgpt2.serving.client.exceptions",
        "tfgpt2.serving.export.export.export",
        "tfgpt2.serving.export.report",
        "tfgpt2.serving.export.batching_options.Batching",
    ),
    "LiteRT": (
        "tfgpt2.litert.generator.LiteRTGenerator",
        "tfgpt2.litert.export.export_litert",
        "tfgpt2.litert.export_litertlm.export_litertlm",
        "tfgpt2.litert.export_task.export_litert_task",
        "tfgpt2.litert.publish.LiteRTReport",
    ),
    "Training": (
        "tfgpt2.training.data",
        "tfgpt2.training.data.schedule",
        "tfgpt2.training.settings",
        "tfgpt2.training.trainer",
        "tfgpt2.training.callbacks",
        "tfgpt2.training.recipes",
        "tfgpt2.training.schedules",
        "tfgpt2.training.lora",
    ),
    "Evaluation": (
        "tfgpt2.evaluation.perplexity",
        "tfgpt2.evaluation.cloze",
        "tfgpt2.evaluation.scoring",
    ),
    "Large jobs": (
        "tfgpt2.batch.job",
        "tfgpt2.batch.settings",
        "tfgpt2.batch.tasks.generate",
        "tfgpt2.batch.tasks.text_scoring",
        "tfgpt2.batch.tasks.classify",
    ),
    "Looking inside": (
        "tfgpt2.inspect.attention",
        "tfgpt2.inspect.surprise",
        "tfgpt2.inspect.lens",
    ),
}
_LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)\s#]+)(#[^)\s]*)?\)")
# A list directly after a paragraph: GitHub accepts it, Python's markdown needs a blank line.
_LIST = re.compile(r"^(?![ \t]|[-*] |\d+\. |[|#>]|$)(.+)\n(?=[-*] |1\. )", re.MULTILINE)
_FENCE = re.compile(r"(^```.*?^```[^\n]*$)", re.MULTILINE | re.DOTALL)


def on_config(config: Any) -> Any:
    """Drop missing pages from the navigation, and add the generated ones."""
    generated = {site for source, site in SITE_PAGES.items() if (ROOT / source).is_file()}
    generated |= {COMMANDS, API + "index.md"}

    def kept(entry: Any) -> Any:
        if isinstance(entry, list):
            return [one for one in map(kept, entry) if one]
        if isinstance(entry, dict):
            ((title, value),) = entry.items()
            value = kept(value)
            return {title: value} if value else None
        if entry == API:
            return [API + "index.md", *({title: page} for title, page, _ in api_pages())]
        if entry == NOTES:
            return sorted(site for site in generated if site.startswith(NOTES))
        return entry if entry in generated or Path(config.docs_dir, entry).is_file() else None

    config.nav = kept(config.nav)
    if config.repo_url:
        config.edit_uri = "edit/main/docs/"
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the generated pages."""
    pages = {site: (ROOT / source).read_text(encoding="utf-8")
             for source, site in SITE_PAGES.items()
             if source != "README.md" and (ROOT / source).is_file()}  # fmt: skip
    pages[COMMANDS] = command_line()
    contents = [f"- [{title}]({posixpath.basename(page)})" for title, page, _ in api_pages()]
    pages[API + "index.md"] = "# API\n\n" + "\n".join(contents) + "\n"
    for title, page, names in api_pages():
        pages[page] = f"# {title}\n\n" + "\n".join(f"::: {name}\n" for name in names)
    for page in sorted((ROOT / "docs" / TUTORIALS).glob("*.md")):
        text = notebooks.write(page.read_text(encoding="utf-8"))
        pages[f"{TUTORIALS}{page.stem}.ipynb"] = text
    for page, text in pages.items():
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, *, page: Any, files: Files, **unused: Any) -> str:
    """Rewrite the links of a page; a tutorial names its notebook."""
    sources = {site: source for source, site in SITE_PAGES.items() if site != "index.md"}
    here = page.file.src_uri
    if here.startswith(TUTORIALS):
        name = posixpath.basename(here).replace(".md", ".ipynb")
        title, _, rest = markdown.partition("\n")
        markdown = f"{title}\n\n[This page as a notebook]({name})\n{rest}"
    source = sources.get(here, "docs/" + here)
    known = {file.src_uri for file in files}
    parts = _FENCE.split(markdown)  # code blocks stay unchanged

    def rewrite(text: str) -> str:
        text = _LIST.sub(r"\1\n\n", text)
        return _LINK.sub(lambda match: _rewritten(match, source, here, known), text)

    return "".join(part if part.startswith("```") else rewrite(part) for part in parts)


def _rewritten(match: re.Match[str], source: str, here: str, known: set[str]) -> str:
    """A link of the repository page `source`, rewritten for the site page `here`."""
    text, target, anchor = match[1], match[2], match[3] or ""
    if ":" in target:
        return match[0]
    path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
    folder_page = posixpath.join(path, "README.md")
    site = SITE_PAGES.get(path) or SITE_PAGES.get(folder_page)
    if site is None and path.startswith("docs/"):
        site = path.removeprefix("docs/")
    if site in known:
        return f"[{text}]({posixpath.relpath(site, posixpath.dirname(here) or '.')}{anchor})"
    if (ROOT / path).exists():
        return text if "`" in text or text == path else f"{text} (`{path}`)"
    return match[0]  # reported by strict mode


def command_line() -> str:
    """The page of the command line, from typer's help texts."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import typer
    from typer.cli import get_docs_for_click

    from tfgpt2.cli.main import app

    command = typer.main.get_command(app)
    context = typer.Context(command, info_name="tfgpt2")
    text = get_docs_for_click(obj=command, ctx=context, name="tfgpt2")
    # "<|endoftext|>" must not be parsed as a tag.
    text = re.sub(r"<(?=\|)", r"&lt;", text)
    return text.replace("# `tfgpt2`", "# The command line", 1)


def api_pages() -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Yield title, page and names of each group of the API."""
    groups: dict[str, list[str]] = {}
    title = ""
    for line in (ROOT / "tfgpt2" / "__init__.py").read_text(encoding="utf-8").splitlines():
        if found := re.match(r"    # (.+)", line):
            title = found[1]
        elif found := re.match(r'    "(\w+)": "([\w.]+)",', line):
            groups.setdefault(title, []).append(f"{found[2]}.{found[1]}")
        elif line == "}":
            break
    for title, names in RELATED.items():
        groups[title] += names
    for title, names in (groups | MODULES).items():
        slug = re.sub(r"[^a-z0-9]+", "-", title.lower().replace("<->", "and")).strip("-")
        yield title[0].upper() + title[1:], f"{API}{slug}.md", tuple(names)
