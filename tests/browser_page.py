"""A page in the browser fixture, with everything that it complains about."""

from pathlib import Path
from typing import Any


class BrowserPage:
    """An open page; `complaints` are its console messages, errors and failed requests."""

    def __init__(self, browser: Any, path: Path, fragment: str = "") -> None:
        self.page = browser.new_page(viewport={"width": 1280, "height": 900})
        self.complaints: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("requestfailed", lambda request: self.complaints.append(request.url[:80]))
        self.page.goto(path.as_uri() + fragment)

    def count_visible(self, selector: str) -> int:
        return int(self.page.locator(f"{selector}:visible").count())
