"""The documentation site: `sphinx-build -W --keep-going docs build/site`, with the extra `docs` installed."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]

project = "rxt_jax"
author = "the authors of rxt_jax"
release = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.mathjax"]
html_theme = "sphinx_book_theme"
html_title = "rxt_jax"
html_theme_options = {"show_toc_level": 2, "home_page_in_toc": True}

# The tests execute the notebooks (tests/test_notebooks.py); the site shows them as they are in colab/.
nb_execution_mode = "off"
myst_enable_extensions = ["dollarmath", "amsmath", "html_image"]
myst_heading_anchors = 4
exclude_patterns = ["drawings"]
suppress_warnings = ["myst.header"]

autodoc_default_options = {
    "members": True,
    "undoc-members": True,
    "imported-members": True,
    "show-inheritance": True,
    "member-order": "bysource",
}
autodoc_class_signature = "separated"
autodoc_typehints = "signature"


def plain_docstring(app, what, name, obj, options, lines: list[str]) -> None:
    """Show docstrings as they were written: paragraphs of plain text with `names`, indented parts letter by letter."""
    shown: list[str] = []
    for paragraph in "\n".join(lines).strip("\n").split("\n\n"):
        if re.search(r"^ {2,}", paragraph, re.MULTILINE):
            shown += [".. code-block:: text", "", *(f"   {line}" for line in paragraph.splitlines()), ""]
        else:
            parts = paragraph.split("`")
            # Every second part stands between backticks. What is left over at the end is not closed.
            words = [
                f"``{part}``" if number % 2 and part.strip() == part and part else re.sub(r"([*_|\\])", r"\\\1", part)
                for number, part in enumerate(parts)
            ]
            shown += [*"\\ ".join(words).splitlines(), ""]
    lines[:] = shown


def site_links(app, docname: str, source: list[str]) -> None:
    """Turn what links within the repository, as its pages are read there, into what links within the site.

    `<a name="section-1"></a>` becomes a target; a page that is not part of the site is named instead of linked.
    """
    text = re.sub(r'^(#+ .*?) <a name="([\w-]+)"></a>', r"(\2)=\n\1", source[0], flags=re.MULTILINE)
    text = re.sub(r"\]\((?:\.\./)?method\.md#((?:section|papers)[\w-]*)\)", r"](#\1)", text)
    source[0] = re.sub(r"\[([^\]]+)\]\(\.\./((?:benchmarks|rxt_jax|configs)/[^)]+)\)", _named, text)


def _named(link: re.Match) -> str:
    words, file = link.groups()
    return f"`{file}`" if words == file else f"{words} (`{file}`)"


def setup(app) -> None:
    """Connect."""
    app.connect("autodoc-process-docstring", plain_docstring)
    app.connect("source-read", site_links)
