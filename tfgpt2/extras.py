"""Optional dependencies: which extra holds a module, and one error when it is missing."""

from __future__ import annotations

import importlib.util

from tfgpt2.errors import explain

# The modules of each extra in `pyproject.toml` that the package imports.
MODULES = {
    "serve": ("starlette", "uvicorn", "grpc", "tensorflow_serving", "prometheus_client"),
    "client": ("httpx", "grpc", "google.protobuf"),
    "train": ("matplotlib", "yaml", "tensorboard"),
    "inspect": ("matplotlib",),
    "chat": ("prompt_toolkit",),
    "parquet": ("pyarrow",),
    "litert": ("ai_edge_litert",),
    "int4": ("ai_edge_litert", "ai_edge_quantizer"),
    "beam": ("apache_beam",),
    "eval": ("lm_eval",),
    "litertlm": ("litert_lm_builder",),
}


def missing_extra(what: str, extra: str, *modules: str) -> ImportError:
    """Returns the error for an extra that is not installed.

    Args:
        what: What needs it, the subject of a sentence.
        extra: Its name.
        *modules: The modules that are missing.

    Example:
        >>> print(missing_extra("A chat", "chat", "prompt_toolkit"))
        A chat needs prompt_toolkit, which is not installed. Run: pip install 'tfgpt2[chat]'.
    """
    verb = "is" if len(modules) == 1 else "are"
    problem = f"{what} needs {', '.join(modules)}, which {verb} not installed."
    return ImportError(explain(problem, fix=f"Run: pip install 'tfgpt2[{extra}]'."))


def require(what: str, extra: str, *modules: str) -> None:
    """Raises when modules of an extra are not installed; nothing is imported.

    Args:
        what: What needs them, the subject of a sentence.
        extra: The extra's name.
        *modules: The modules; by default all of the extra.

    Raises:
        ImportError: Names the missing modules and the command that installs them.

    Example:
        >>> require("This", "chat", "json")
    """
    missing = [name for name in modules or MODULES[extra] if not _is_installed(name)]
    if missing:
        raise missing_extra(what, extra, *missing)


def _is_installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # of the package that holds it
        return False
