"""README's pictures of the page: a bad night on a desk in light, and on a phone in dark. `make pictures`."""

import sys

from playwright.sync_api import sync_playwright

from keyvigil.page.render import page
from tests.page.conftest import CHROMIUM, ROOT
from tests.page.fleets import night

PICTURES = ROOT / "docs" / "pictures"
MOST_BYTES = 150 * 1024


def main() -> int:
    """Draw the pictures; 1 if one is too large for a repository."""
    PICTURES.mkdir(exist_ok=True)
    written = page(night().seen())
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for name, width, height, theme in (("fleet", 1000, 780, "light"), ("fleet-phone", 390, 844, "dark")):
            context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=theme)
            opened = context.new_page()
            opened.set_content(written)
            opened.screenshot(path=PICTURES / f"{name}.png")
        browser.close()
    sizes = {each: each.stat().st_size for each in sorted(PICTURES.iterdir())}
    for path, size in sizes.items():
        sys.stdout.write(f"{path.relative_to(ROOT)}: {size:,} bytes\n")
    return int(any(size > MOST_BYTES for size in sizes.values()))


if __name__ == "__main__":
    sys.exit(main())
