"""Take a screenshot of a notebook for docs/inspect.md: what results look like at the end of a cell.

Needs nbconvert, nbclient, ipykernel, selenium and Debian's chromium and chromium-driver:

    python docs/make_notebook.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import nbclient
import nbformat
from make_screenshots import FOLDER, browser
from nbconvert import HTMLExporter
from notebooks import write

PAGE = """
```python
import tfgpt2
from tfgpt2.inspect import surprise

generator = tfgpt2.TextGenerator.from_pretrained("shakespeare-tiny")
generator.generate("ROMEO:\\n", max_new_tokens=24, temperature=0.8, seed=2, details=True)
```

```python
surprise(generator.model, generator.tokenizer, "To be, or not to be, that is the question.")
```
"""
SIZE = (860, 470)


def main() -> None:
    """Run the cells and save the picture."""
    cells = nbformat.reads(write(PAGE), 4)
    nbclient.NotebookClient(cells, timeout=600).execute()
    for cell in cells.cells:  # a notebook shows what C++ libraries log
        cell.outputs = [one for one in cell.outputs if one.output_type != "stream"]
    html, _ = HTMLExporter(template_name="lab").from_notebook_node(cells)
    with tempfile.TemporaryDirectory() as folder, browser(SIZE) as driver:
        page = Path(folder) / "notebook.html"
        page.write_text(html, encoding="utf-8")
        driver.get(page.as_uri())
        path = FOLDER / "notebook.png"
        driver.save_screenshot(str(path))
        print(f"{path.name}: {path.stat().st_size / 1024:.0f} KB")


if __name__ == "__main__":
    main()
