"""Create the pictures of docs/inspect.md and the README's loss curve, for the bundled model.

Needs matplotlib, selenium and Debian's chromium and chromium-driver:

    python docs/make_plots.py
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from make_screenshots import FOLDER, browser
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By

import tfgpt2
from tfgpt2 import TFGPT2LMHeadModel, TFGPT2Tokenizer
from tfgpt2.inspect import attention_maps, surprise
from tfgpt2.training.display import draw_losses

TEXT = """ROMEO:
If I profane with my unworthiest hand
This holy shrine, the gentle fine is this:
My lips, two blushing pilgrims, ready stand
To smooth that rough touch with a tender kiss."""


def loss_curve() -> Path:
    """Plot the losses in the bundled model's `training.json`."""
    asset = Path(tfgpt2.__file__).parent / "assets" / "shakespeare-tiny" / "training.json"
    history = json.loads(asset.read_text())["history"]
    pairs = zip(history["loss"], history["val_loss"], strict=True)
    lines = [{"step": 100 * i, "loss": a, "val_loss": b} for i, (a, b) in enumerate(pairs, 1)]
    draw_losses(lines, FOLDER / "training-loss.png")
    return FOLDER / "training-loss.png"


def main() -> None:
    """Create two plots and a screenshot."""
    print(loss_curve())
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
