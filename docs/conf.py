"""The documentation site: `sphinx-build -W --keep-going docs build/site`, with the extra `docs` installed.

RXT_REPOSITORY_URL (https://github.com/OWNER/NAME) says where the repository is published: then pages link to it, and
notebooks can be opened on Colab. RXT_REPOSITORY_BRANCH names its branch, `main` unless told otherwise.
"""

import json
import os
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

REPOSITORY = os.environ.get("RXT_REPOSITORY_URL", "").rstrip("/")
BRANCH = os.environ.get("RXT_REPOSITORY_BRANCH", "main")
if REPOSITORY:
    html_theme_options |= {"repository_url": REPOSITORY, "repository_branch": BRANCH, "use_repository_button": True}

# The tests execute the notebooks (tests/test_notebooks.py); the site shows them as they are in colab/.
nb_execution_mode = "off"
# Links to other sites: python -m sphinx -b linkcheck docs build/links. tests/test_links.py follows those within.
linkcheck_ignore = [r"https?://(127\.0\.0\.1|localhost)"]
linkcheck_timeout = 20
linkcheck_retries = 2
myst_enable_extensions = ["dollarmath", "amsmath", "html_image"]
myst_heading_anchors = 4
exclude_patterns = ["drawings"]
suppress_warnings = ["ref.python", "myst.header"]

autodoc_default_options = {
    "members": True,
    "undoc-members": True,
    "imported-members": True,
    "show-inheritance": True,
    "member-order": "bysource",
}
autodoc_class_signature = "separated"
autodoc_typehints = "signature"


def copy_notebooks() -> None:
    """Put the notebooks of colab/ where Sphinx looks for pages, each with a line that says what it is a copy of."""
    folder = ROOT / "docs" / "colab"
    folder.mkdir(exist_ok=True)
    sources = sorted((ROOT / "colab").glob("*.ipynb"))
    for old in set(folder.glob("*.ipynb")) - {folder / source.name for source in sources}:
        old.unlink()
    for source in sources:
        notebook = json.loads(source.read_text(encoding="utf-8"))
        line = f"This page is the notebook `colab/{source.name}` of the repository, without its outputs."
        if REPOSITORY:
            place = f"{REPOSITORY.removeprefix('https://github.com/')}/blob/{BRANCH}/colab/{source.name}"
            line += f" [Open it in Colab](https://colab.research.google.com/github/{place})."
        title = next(cell for cell in notebook["cells"] if cell["cell_type"] == "markdown")
        title["source"] = [*title["source"], f"\n\n{line}"]
        notebook["metadata"]["language_info"] = {"name": "python", "pygments_lexer": "python"}
        text, page = json.dumps(notebook, indent=1), folder / source.name
        if not page.is_file() or page.read_text(encoding="utf-8") != text:  # what is as it was is not built again
            page.write_text(text, encoding="utf-8")


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
    text = re.sub(r"\]\(\.\./colab/(\w+\.ipynb)\)", r"](colab/\1)", text)
    source[0] = re.sub(r"\[([^\]]+)\]\(\.\./((?:benchmarks|rxt_jax|configs)/[^)]+)\)", _named, text)


def _named(link: re.Match) -> str:
    words, file = link.groups()
    return f"`{file}`" if words == file else f"{words} (`{file}`)"


def setup(app) -> None:
    """Connect."""
    copy_notebooks()
    app.connect("autodoc-process-docstring", plain_docstring)
    app.connect("source-read", site_links)
