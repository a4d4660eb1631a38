"""Virtual environments of the backends: one per library, with pinned versions.

    python benchmarks/environments.py            # create all that are missing
    python benchmarks/environments.py torch      # create one

They are stored in `benchmarks/.envs/` (ignored by git) and need about 12 GB. The first run takes
some minutes because llama.cpp is compiled. An environment that cannot be created is reported with
the last line of the error, and its backends are skipped.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
FOLDER = HERE / ".envs"
OWN = "development"  # the current environment: this package, KerasHub

# PyPI's torch wheels for Linux include CUDA; a machine with a CPU build configured gets that one.
ENVIRONMENTS: dict[str, list[str]] = {
    "transformers4": [
        "transformers==4.57.6",
        "tensorflow==2.21.0",
        "tf-keras==2.21.0",
        "safetensors==0.8.0",
    ],
    "torch": ["torch==2.13.0", "transformers==5.24.0", "numpy==2.4.6", "setuptools"],
    "ctranslate2": ["ctranslate2==4.8.5", "safetensors==0.8.0", "numpy==2.4.6"],
    "llama": [
        "llama-cpp-python==0.3.36",
        "gguf==0.19.0",
        "safetensors==0.8.0",
        "numpy==2.4.6",
    ],
    "onnxruntime": [
        "onnxruntime==1.32.0",
        "onnx==1.23.2",
        "safetensors==0.8.0",
        "numpy==2.4.6",
    ],
}
SECONDS = 1800  # timeout of one installation


def interpreter(name: str, folder: Path = FOLDER) -> Path:
    """The Python interpreter of an environment."""
    return Path(sys.executable) if name == OWN else folder / name / "bin" / "python"


def is_ready(name: str, folder: Path = FOLDER) -> bool:
    """Whether an environment exists with the versions listed here."""
    if name == OWN:
        return True
    mark = folder / name / "requirements.sha256"
    return mark.exists() and mark.read_text() == fingerprint(name)


def fingerprint(name: str) -> str:
    """Hash of the requirements."""
    return hashlib.sha256("\n".join(ENVIRONMENTS[name]).encode()).hexdigest()


def create(name: str, folder: Path = FOLDER) -> str | None:
    """Create an environment if it is missing or outdated.

    Returns:
        None on success, else the reason.
    """
    if is_ready(name, folder):
        return None
    target = folder / name
    print(f"installing {', '.join(ENVIRONMENTS[name])} ...", file=sys.stderr, flush=True)
    variables = os.environ | {"CMAKE_BUILD_PARALLEL_LEVEL": "2"}
    commands = [
        [sys.executable, "-m", "venv", str(target)],
        [str(interpreter(name, folder)), "-m", "pip", "install", "--quiet",
         "--disable-pip-version-check", *ENVIRONMENTS[name]],
    ]  # fmt: skip
    for command in commands:
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, env=variables, timeout=SECONDS
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"{name}: {error}"
        if done.returncode:
            reasons = (done.stderr.strip() or done.stdout.strip() or "?").splitlines()
            errors = [line for line in reasons if line.lstrip().lower().startswith("error")]
            return f"{name}: {(errors or reasons)[-1]}"
    (target / "requirements.sha256").write_text(fingerprint(name))
    return None


def ensure(names: list[str], folder: Path = FOLDER) -> dict[str, str]:
    """Create environments; return the reasons of those that failed."""
    failed = {name: create(name, folder) for name in names if name != OWN}
    return {name: reason for name, reason in failed.items() if reason}


def main() -> None:
    """Create the environments."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", choices=[*ENVIRONMENTS, []], help="default: all")
    failed = ensure(parser.parse_args().names or list(ENVIRONMENTS))
    for reason in failed.values():
        print(f"skipped {reason}")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
