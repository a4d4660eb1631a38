"""Take screenshots of the playground in headless Chromium for the documentation.

Needs selenium and Debian's chromium and chromium-driver, and a server with the bundled model:

    tfgpt2 serve saved_models/shakespeare-tiny &
    python docs/make_screenshots.py http://127.0.0.1:8501/
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

FOLDER = Path(__file__).parent / "images"
DESKTOP, PHONE = (1180, 800), (380, 800)
TEXT = """ROMEO:
If I profane with my unworthiest hand
This holy shrine, the gentle fine is this:
My lips, two blushing pilgrims, ready stand
To smooth that rough touch with a tender kiss.

JULIET:
Good pilgrim, you do wrong your hand too much,"""
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync",
         "--hide-scrollbars")  # fmt: skip


@contextmanager
def browser(size: tuple[int, int]) -> Iterator[webdriver.Chrome]:
    """Start a browser with a viewport of `size` CSS pixels."""
    options = webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    with tempfile.TemporaryDirectory() as profile:
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        driver = webdriver.Chrome(options, webdriver.ChromeService("/usr/bin/chromedriver"))
        try:
            phone = size == PHONE
            driver.execute_cdp_cmd(
                "Emulation.setDeviceMetricsOverride",
                {"width": size[0], "height": size[1], "deviceScaleFactor": 1.5 if phone else 1,
                 "mobile": phone},
            )  # fmt: skip
            yield driver
        finally:
            driver.quit()


def wait(driver: webdriver.Chrome, condition: str) -> None:
    """Wait until a JavaScript expression is true."""
    WebDriverWait(driver, 180).until(lambda one: one.execute_script(f"return {condition}"))


def start(driver: webdriver.Chrome, url: str, theme: str = "light") -> None:
    """Open the page with the text above."""
    driver.get(url)
    driver.execute_script(
        "localStorage.clear(); sessionStorage['tfgpt2.text'] = arguments[0];"
        "localStorage['tfgpt2.theme'] = arguments[1]", TEXT, theme
    )  # fmt: skip
    driver.refresh()
    wait(driver, "!document.getElementById('suggest').disabled")
    driver.execute_script("document.getElementById('seed').value = 11")  # reproducible suggestions
    text = driver.find_element(By.ID, "text")
    text.send_keys(Keys.CONTROL, Keys.END)


def suggest(driver: webdriver.Chrome) -> None:
    """Request suggestions and wait until they are whole."""
    driver.find_element(By.ID, "suggest").click()
    wait(driver, "document.querySelectorAll('#options li').length")
    wait(driver, "!document.getElementById('more').hidden")


def tint(driver: webdriver.Chrome) -> None:
    """Show the tinted text, with the card of one token open."""
    driver.find_element(By.ID, "tint").click()
    wait(driver, "document.querySelectorAll('#tinted .t').length")
    driver.execute_script("document.querySelectorAll('#tinted .c')[3].focus()")


def save(driver: webdriver.Chrome, name: str) -> None:
    """Save a screenshot after all animations have finished."""
    driver.execute_script("document.getAnimations().forEach((one) => one.finish?.call(one))")
    path = FOLDER / f"playground-{name}.png"
    driver.save_screenshot(str(path))
    print(f"{path.name}: {path.stat().st_size / 1024:.0f} KB")


def main(url: str) -> None:
    """Take all screenshots."""
    FOLDER.mkdir(exist_ok=True)
    with browser(DESKTOP) as driver:
        start(driver, url)
        suggest(driver)  # the server compiles, which would show in the seconds of the picture
        start(driver, url)
        suggest(driver)
        save(driver, "desktop")
        start(driver, url)
        tint(driver)
        save(driver, "tint")
        start(driver, url, "dark")
        suggest(driver)
        driver.find_element(By.ID, "text").send_keys(Keys.DOWN)
        save(driver, "dark")
        start(driver, url)
        driver.execute_script("window.fetch = () => Promise.reject(new TypeError('gone'))")
        driver.find_element(By.ID, "suggest").click()
        wait(driver, "!document.getElementById('banner').hidden")
        save(driver, "error")
    with browser(PHONE) as driver:
        start(driver, url)
        suggest(driver)
        save(driver, "phone")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url", help="URL of the playground")
    main(parser.parse_args().url)
