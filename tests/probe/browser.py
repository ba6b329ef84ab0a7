"""Chromium without a screen, as a telephone or a desk would show a page; Debian's chromium and chromium-driver."""

from __future__ import annotations

import base64
from types import TracebackType
from typing import Any

from axe_selenium_python import Axe
from selenium import webdriver

WIDE, NARROW = 1280, 390


class Browser:
    """One browser; every page is asked for by its URL."""

    def __enter__(self) -> Browser:
        options = webdriver.ChromeOptions()
        options.binary_location = "/usr/bin/chromium"
        # Tests work as root, for whom Chromium has no sandbox.
        for argument in ("--headless=new", "--no-sandbox", "--hide-scrollbars", "--disable-gpu"):
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self._driver = webdriver.Chrome(options=options, service=webdriver.ChromeService("/usr/bin/chromedriver"))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._driver.quit()

    def show(self, url: str, width: int = WIDE, scheme: str = "light", medium: str = "screen") -> None:
        """Load a page; `width` in CSS pixels, `scheme` light or dark."""
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        self._driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self._driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": medium, "features": features})
        self._driver.get(url)

    def evaluate(self, script: str) -> Any:
        """What a script returns that runs in the page."""
        return self._driver.execute_script(script)

    def picture(self, height: int | None = None) -> bytes:
        """The page as PNG, from its top to `height` or to its end."""
        width, whole = self.evaluate("return [innerWidth, document.documentElement.scrollHeight]")
        clip = {"x": 0, "y": 0, "width": width, "height": min(whole, height or whole), "scale": 1}
        wanted = {"format": "png", "captureBeyondViewport": True, "clip": clip}
        return base64.b64decode(self._driver.execute_cdp_cmd("Page.captureScreenshot", wanted)["data"])

    def complaints(self) -> list[str]:
        """What Chromium has written to its console since it was last asked: errors, and what the policy forbade."""
        driver: Any = self._driver
        return [entry["message"] for entry in driver.get_log("browser")]

    def barriers(self) -> list[str]:
        """What axe-core finds that keeps somebody from using the page (WCAG 2.2 AA and its good practice)."""
        axe = Axe(self._driver)
        axe.inject()
        found = axe.run()
        return [f"{item['id']}: {item['nodes'][0]['html']}" for item in found["violations"]]
