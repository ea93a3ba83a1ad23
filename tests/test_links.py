"""Every link within the repository leads somewhere: to a file that is there, and to a heading that it has.

Links to other sites are checked by command, where there is a network (CONTRIBUTING.md).
"""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "rxt_jax" / "companion" / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "benchmarks").glob("*.md")),
]


def prose(page):
    """The text of a page without its code."""
    text = page.read_text(encoding="utf-8")
    text = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"`[^`\n]*`", "", text)


def links(page):
    """Targets of links and pictures, without those to other sites."""
    found = re.findall(r"\]\(([^)\s]+)\)", prose(page))
    found += re.findall(r"<(?:img|a)[^>]* (?:src|href)=\"([^\"]+)\"", prose(page))
    return [each for each in found if not re.match(r"[a-z]+:", each)]


def anchors(page):
    """Names that a link can point at: headings as GitHub and the site call them, and places that have a name."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    found = set(re.findall(r"<a name=\"([^\"]+)\"", text))
    for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE):
        words = re.sub(r"<[^>]*>|`", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)).strip().lower()
        found.add(re.sub(r"[^\w\- ]", "", words).replace(" ", "-"))
    return found


def test_links_are_found():
    assert len(PAGES) > 40
    assert sum(len(links(page)) for page in PAGES) > 100
    assert "the-memory-benchmark" in anchors(ROOT / "docs" / "evaluation.md")
    assert "section-16" in anchors(ROOT / "docs" / "method.md")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_of_a_page_lead_somewhere(page):
    wrong = []
    for link in links(page):
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in anchors(target)):
            wrong.append(link)
    assert not wrong
