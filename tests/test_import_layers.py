"""The layers of docs/architecture.md, checked as the contract in pyproject.toml."""

from pathlib import Path

from importlinter.cli import lint_imports


def test_imports_point_down(capsys):
    root = Path(__file__).parent.parent
    code = lint_imports(config_filename=str(root / "pyproject.toml"), no_cache=True)
    assert code == 0, capsys.readouterr().out
