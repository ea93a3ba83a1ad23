"""The examples of docs/serving.md, run as they stand against a real server."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCUMENT = Path(__file__).parents[2] / "docs" / "serving.md"
EXAMPLES = re.findall(r"<!-- example: (\w+) -->\n```(\w+)\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
SAYS = {"openai": "Hello you.", "curl": "event: response.completed", "memory": '"object":"conversation"'}


@pytest.mark.parametrize(("name", "language", "text"), EXAMPLES, ids=[name for name, *_ in EXAMPLES])
def test_an_example_runs(server, tmp_path, name, language, text):
    text = text.replace("http://127.0.0.1:8000", server.address)
    text = text.replace("Hello!", "Hello.")  # what the parrot knows
    command = [sys.executable, "-c", text] if language == "python" else ["bash", "-euo", "pipefail", "-c", text]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert SAYS.get(name, "") in done.stdout
    assert '"error":{' not in done.stdout


def test_there_are_examples_for_every_client():
    assert {name for name, *_ in EXAMPLES} == {"openai", "chat", "langchain", "curl", "memory"}
