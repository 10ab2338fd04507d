"""What several test modules stand on: a real browser."""

import shutil
import time

import pytest

CHROMIUM, DRIVER = shutil.which("chromium") or shutil.which("chromium-browser"), shutil.which("chromedriver")


@pytest.fixture
def browser(tmp_path):
    """Headless Chromium, speaking Korean, 1280 pixels wide. Skips the test where the machine has none."""
    if not (CHROMIUM and DRIVER):
        pytest.skip("chromium과 chromedriver가 없다")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--window-size=1280,1800", "--lang=ko",
                 "--disable-background-networking", "--no-first-run", f"--user-data-dir={tmp_path / 'chromium'}"):
        options.add_argument(flag)
    options.add_experimental_option("prefs", {"intl.accept_languages": "ko,en"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    driver.set_script_timeout(300)
    yield driver
    driver.quit()


@pytest.fixture
def until():
    """`until(condition, seconds=60)`: wait for a page to get somewhere."""

    def wait(condition, seconds=60.0):
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "the page did not get there"
            time.sleep(0.1)

    return wait
