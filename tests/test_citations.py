"""What code and tests cite of docs/method.md exists there; the page itself is numbered without gaps or doubles."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
METHOD = (ROOT / "docs" / "method.md").read_text(encoding="utf-8")
PAGES = [
    *(ROOT / "docs").glob("*.md"),
    *(ROOT / "benchmarks").glob("*.md"),
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
]
SOURCES = [path for folder in ("rxt_jax", "tests", "benchmarks", "configs") for path in (ROOT / folder).rglob("*.py")]

EQUATIONS = re.findall(r"\\tag\{(\d+[a-z]?)\}", METHOD)
SECTIONS = re.findall(r"^##+ (\d+(?:\.\d+)?) ", METHOD, re.MULTILINE)

_NUMBER = r"\d+[a-z]?"
_EQUATIONS = re.compile(rf"\b[Ee]q\.\s({_NUMBER}(?:(?:,| and| or| to)\s{_NUMBER})*)(?!\d)")
_SECTIONS = re.compile(r"§\s?(\d+(?:\.\d+)*)")


def citations(text: str) -> tuple[list[str], list[str]]:
    """List the equations and the sections that a text names, wherever its lines break."""
    joined = re.sub(r"\s*\n\s*(?:# )?", " ", text)
    lists = _EQUATIONS.findall(joined)
    return [number for each in lists for number in re.findall(_NUMBER, each)], _SECTIONS.findall(joined)


@pytest.mark.parametrize("text", ["docs/method.md,\n    eq. 3, 4\n    and 12a, §2.1", "Eq. 3 to 4 or 12a; §2.1."])
def test_citations_are_found_across_lines_and_in_lists(text):
    assert citations(text) == (["3", "4", "12a"], ["2.1"])


def test_what_is_cited_exists_and_the_page_is_named():
    cited, wrong = 0, []
    for path in (*SOURCES, *PAGES):
        if path == Path(__file__):
            continue
        text = path.read_text(encoding="utf-8")
        equations, sections = citations(text)
        cited += len(equations) + len(sections)
        named = "method.md" in text or path.name == "method.md"
        lost = [f"eq. {each}" for each in equations if not named or each not in EQUATIONS]
        lost += [f"§{each}" for each in sections if not named or each not in SECTIONS]
        lost += re.findall(r"\b[Ss]pec(?:ification)? §.{8}", text)  # of what is not in the repository
        wrong += [f"{path.relative_to(ROOT)}: {each}" for each in lost]
    assert not wrong, "docs/method.md has no such equation or section, or the file does not name that page"
    assert cited > 100


def test_equations_are_numbered_in_order():
    order = [(int(re.sub(r"\D", "", number)), number) for number in EQUATIONS]
    assert order == sorted(set(order))
    blocks = re.findall(r"^\$\$\n(.*?)\n\$\$$", METHOD, re.MULTILINE | re.DOTALL)
    assert len(blocks) == len(EQUATIONS)
    assert all(block.count("\\tag{") == 1 for block in blocks)


def test_sections_are_numbered_in_order_and_have_their_anchor():
    parts = [tuple(map(int, number.split("."))) for number in SECTIONS]
    assert parts == sorted(set(parts))
    anchors = set(re.findall(r'<a name="([^"]+)">', METHOD))
    assert anchors == {f"section-{number.replace('.', '-')}" for number in SECTIONS} | {"papers"}
    assert set(re.findall(r"\(#([^)]+)\)", METHOD)) <= anchors


def test_papers_that_are_named_are_listed():
    listed = set(re.findall(r"^\| ([^|]+) \|", METHOD.partition("## Papers")[2], re.MULTILINE))
    assert set(re.findall(r"\[\[([^\]]+)\]\(#papers\)\]", METHOD)) == listed
