"""The links from the report's pictures to the pages of their takes."""

from pathlib import Path
from typing import Any

from browser_page import BrowserPage

from egoexo_tools.report.causes import FAILURES
from egoexo_tools.report.page import write_report


def test_a_failure_links_to_its_take_over_time(
    runs: list[Path], browser: Any, tmp_path: Path
) -> None:
    write_report(runs, tmp_path / "report.html")
    tab = BrowserPage(browser, tmp_path / "report.html")
    for card in tab.page.locator(".card").all():
        if set((card.get_attribute("data-groups") or "").split()) & set(FAILURES):
            assert card.locator("a").text_content() == "over time"
    card = tab.page.locator('.card[data-direction="exo2ego"][data-object="green box/lid"]').first
    card_text = card.text_content()
    card.locator("a").click()
    tab.page.wait_for_selector(".instant:visible")
    instant = tab.page.locator("#now").text_content()
    assert f"· {instant.split(',')[0]} ·" in card_text
    assert tab.page.locator("[name=object]").input_value() == "green box/lid"
    assert tab.page.locator("[name=run]:checked").get_attribute("value") == "exo2ego"
    assert tab.complaints == []
