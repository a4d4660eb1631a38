"""Where things are: the repository, what other programs wrote, the package."""

from pathlib import Path

import tfgpt2

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden"
DOCS = ROOT / "docs"
EXAMPLES = ROOT / "examples"
PACKAGE = Path(tfgpt2.__file__).parent
ASSETS = PACKAGE / "assets"
