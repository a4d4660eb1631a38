"""The playground in a browser, as a user sees and operates it."""

from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait


class Page:
    """The page as a user sees and operates it."""

    def __init__(self, driver, url):
        self.driver = driver
        driver.get_log("browser")  # discard earlier messages
        driver.get(url)

    def __getitem__(self, name):
        return self.driver.find_element(By.ID, name)

    def until(self, condition, what=""):
        WebDriverWait(self.driver, 15, 0.05).until(lambda _: condition(), what)

    def ready(self):
        self.until(lambda: self["suggest"].is_enabled(), "the models were not loaded")
        return self

    @property
    def value(self):
        return self["text"].get_property("value")

    @property
    def options(self):
        return self.driver.find_elements(By.CSS_SELECTOR, "#options li")

    @property
    def focused(self):
        return self.driver.switch_to.active_element.get_attribute("id")

    def type(self, *keys):
        ActionChains(self.driver).send_keys(*keys).perform()

    def chord(self, key, *held):
        actions = ActionChains(self.driver)
        for one in held:
            actions.key_down(one)
        actions.send_keys(key)
        for one in held:
            actions.key_up(one)
        actions.perform()

    def suggestions(self):
        self.type(Keys.TAB)
        self.until(lambda: self.options, "there are no suggestions")
        return [option.find_element(By.CLASS_NAME, "words").text for option in self.options]

    def errors(self):
        return [one for one in self.driver.get_log("browser") if one["level"] == "SEVERE"]
