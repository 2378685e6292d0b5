"""Take the picture of the README from the real page: ``python tests/demo/picture.py``.

It waits until the page, untouched, shows its story, so that the picture is what a visitor sees.
"""

from pathlib import Path

from playwright.sync_api import sync_playwright
from test_demo_page import CHROMIUM, behind, card, free_port, served, until

PICTURE = Path(__file__).parent.parent.parent / "docs" / "images" / "demo.png"
SECONDS = 25  # of running: B is steady then, and the two curves are well apart


def main() -> None:
    """Take it."""
    port = free_port()
    with served(port), sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page(viewport={"width": 1280, "height": 720})
        page.goto(f"http://127.0.0.1:{port}/")
        until(lambda: behind(card(page, "B")) > 3, "B to fall behind")
        page.wait_for_timeout(SECONDS * 1000)
        page.screenshot(path=PICTURE)
        browser.close()


if __name__ == "__main__":
    main()
