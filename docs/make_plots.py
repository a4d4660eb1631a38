"""Makes the pictures of docs/inspect.md with the bundled model.

Needs matplotlib, selenium and Debian's chromium and chromium-driver:

    python docs/make_plots.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from make_screenshots import FOLDER, browser
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By

from tfgpt2 import TFGPT2LMHeadModel, TFGPT2Tokenizer
from tfgpt2.inspect import attention_maps, surprise

TEXT = """ROMEO:
If I profane with my unworthiest hand
This holy shrine, the gentle fine is this:
My lips, two blushing pilgrims, ready stand
To smooth that rough touch with a tender kiss."""


def main() -> None:
    """Draws one picture, and photographs one page."""
    model = TFGPT2LMHeadModel.from_pretrained("shakespeare-tiny")
    tokenizer = TFGPT2Tokenizer.from_pretrained("shakespeare-tiny")
    print(attention_maps(model, tokenizer, TEXT).save(FOLDER / "inspect-attention.png", dpi=72))
    with tempfile.TemporaryDirectory() as folder, browser((900, 400)) as driver:
        page = surprise(model, tokenizer, TEXT).save(Path(folder) / "surprise.html")
        driver.get(page.as_uri())
        tokens = driver.find_elements(By.CLASS_NAME, "token")
        chosen = next(token for token in tokens if token.text.strip().startswith("gentle"))
        ActionChains(driver).move_to_element(chosen).perform()
        path = FOLDER / "inspect-surprise.png"
        driver.save_screenshot(str(path))
        print(path)


if __name__ == "__main__":
    main()
