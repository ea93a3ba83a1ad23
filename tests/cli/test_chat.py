"""`rxt chat`: the transcript of a pipe, a terminal with somebody who types anything, commands, facts, memory."""

import io
import re
import subprocess
import sys

import numpy as np
import pytest
from small import dialogue_tokenizer, small_config, small_model

from rxt_jax.cli import facts
from rxt_jax.cli.chat_commands import split_command
from rxt_jax.cli.chat_text import facts_text, laid_out, memory_text, printable
from rxt_jax.cli.facts import QUESTIONS, Fact, Known, facts_known, questions_about
from rxt_jax.cli.main import main
from rxt_jax.run_folder import load, write_run
from rxt_jax.serving import Answer, ChatSession, Chunk, MemoryChange


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """An untrained model as a run."""
    tokenizer = dialogue_tokenizer()
    folder = tmp_path_factory.mktemp("chat") / "run"
    write_run(folder, small_model(small_config(vocab_size=tokenizer.vocab_size, max_length=40)), tokenizer)
    return folder


def chat(run_folder, monkeypatch, capsys, text):
    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    assert main(["chat", str(run_folder)]) == 0
    return capsys.readouterr()


def test_a_pipe_gets_a_transcript(run_folder, tmp_path, monkeypatch, capsys):
    kept = tmp_path / "m.npz"
    lines = ["\ufeffMy cat is Tom.", "", "  ", "/memory", f"/save {kept}", "/RESET", f"/load {kept}"]
    lines += ["/think extended", "Hi 🐱 :cat: [b]x[/b] \x1b[31mred\tx", "/facts", "/help", "/quit", "never read"]
    printed = chat(run_folder, monkeypatch, capsys, "\n".join(lines))
    assert kept.is_file()
    said = printed.out.splitlines()
    assert said[0] == "you    My cat is Tom."
    assert said[1].startswith("model  ")
    assert "you    Hi 🐱 :cat: [b]x[/b] [31mred x" in said
    assert any(line.startswith("think  ") for line in said)
    for part in ("memory: 2 layers of 4 slots", "the model has forgotten everything", "thinking: extended", "/help"):
        assert part in printed.out
    assert all(line.strip() for line in said)
    assert "\x1b" not in printed.out + printed.err
    assert "never read" not in printed.out


def test_what_cannot_be_done_is_said_on_standard_error(run_folder, monkeypatch, capsys):
    lines = ["/memroy", "/mem", "/dance now", "/save", "/think fast-ish", "/load nowhere.npz", "/save /nowhere/m.npz"]
    printed = chat(run_folder, monkeypatch, capsys, "\n".join([*lines, "word " * 60]))
    for message in (
        "line 1: there is no command /memroy; did you mean /memory? /help lists all",
        "line 2: there is no command /mem; did you mean /memory?",
        "line 3: there is no command /dance; /help lists all",
        "line 4: /save needs more: /save FILE",
        "line 5: /think fast-ish: the mode must be fast, extended or auto",
        "line 6: nowhere.npz does not exist",
        "line 7: /nowhere/m.npz: No such file or directory",
        "line 8: that is ",
    ):
        assert f"rxt chat: {message}" in printed.err
    assert re.search(r"that is \d+ tokens long, but one interaction holds 40 .* in \d+ parts; nothing was", printed.err)
    assert all(line.startswith("you    ") for line in printed.out.splitlines())


def test_lines_that_are_too_long_write_nothing(run_folder, tmp_path, monkeypatch, capsys):
    kept = [tmp_path / "before.npz", tmp_path / "after.npz"]
    chat(run_folder, monkeypatch, capsys, f"My cat is Tom.\n/save {kept[0]}\n{'word ' * 5000}\n/save {kept[1]}\n")
    before, after = (np.load(file)["memory"] for file in kept)
    np.testing.assert_array_equal(before, after)


class Typist(io.StringIO):
    """A terminal's input; an exception among the lines is what a key raises."""

    def isatty(self):
        return True


def typed(run_folder, monkeypatch, capsys, *lines):
    remaining = iter(lines)

    def read(prompt):
        print(prompt, end="")
        line = next(remaining, EOFError())
        if isinstance(line, BaseException):
            raise line
        return line

    monkeypatch.setattr("sys.stdin", Typist())
    monkeypatch.setattr("builtins.input", read)
    assert main(["chat", str(run_folder)]) == 0
    return capsys.readouterr()


def test_a_terminal_says_what_to_type_and_bears_with_what_is_typed(run_folder, monkeypatch, capsys):
    printed = typed(run_folder, monkeypatch, capsys, "", "\x1b[A\x1b", "help", "/memroy", "Hello.", "word " * 60)
    for part in ("What is my dog called?", "/help lists the commands", "/facts", "did you mean /memory?", "model  "):
        assert part in printed.out
    assert "tokens long, but one interaction holds 40 with its answer. Send it in" in printed.out
    assert not printed.err


@pytest.mark.parametrize("line", ["/quit", "exit", KeyboardInterrupt(), EOFError()])
def test_a_terminal_lets_go(run_folder, monkeypatch, capsys, line):
    assert "model  " not in typed(run_folder, monkeypatch, capsys, line, "Hello.").out


def test_control_c_stops_a_reply_and_not_the_conversation(run_folder, monkeypatch, capsys):
    send = ChatSession.send

    def interrupted(self, query, **options):
        if query == "Stop.":
            raise KeyboardInterrupt
        return send(self, query, **options)

    monkeypatch.setattr(ChatSession, "send", interrupted)
    printed = typed(run_folder, monkeypatch, capsys, "Stop.", "Hello.").out
    assert "stopped; this turn was not written to memory" in printed
    assert "model  " in printed.split("stopped")[1]


def test_facts_are_what_the_model_is_sure_of_and_does_not_abstain_from(run_folder, monkeypatch):
    loaded = load(run_folder)
    session = ChatSession(loaded.model, loaded.tokenizer, max_length=40)
    answers = {"What is my dog called?": Answer("Your dog is called Rex.", 0.99), "How old am I?": Answer("33.", 0.9)}
    answers["What is my best friend called?"] = Answer("Your dog is called Rex.", 0.5)
    answers |= dict.fromkeys(("Where do I live?", "Where am I from?"), Answer("In Rex.", 0.89))
    asked = []

    def ask(session, questions):
        asked.extend(questions)
        return [answers.get(question, Answer("You have not told me that.", 1.0)) for question in questions]

    monkeypatch.setattr(facts, "ask", ask)
    found = facts_known(session, ["My dog is called Rex.", f"My {'very ' * 60}long thing is here."])
    rex = Fact("What is my dog called?", "Your dog is called Rex.")
    assert found == Known([Fact("How old am I?", "33."), rex], unsure=1)
    assert len(asked) == len(set(asked)) == len(QUESTIONS)
    assert "  How old am I?           33." in facts_text(found).splitlines()
    assert facts_text(found).endswith("left out: 1 answer that it is not sure of")
    assert "knows nothing" in facts_text(Known([], 0)) and "left out" not in facts_text(Known([], 0))
    assert "left out: 2 answers" in facts_text(Known([], 2))


@pytest.mark.parametrize(("confidence", "marked"), [(0.89, True), (0.9, False), (None, False)])
def test_a_terminal_marks_what_the_model_is_not_sure_of(run_folder, monkeypatch, capsys, confidence, marked):
    def stream(self, prompt, first):
        self.confidence = confidence
        yield Chunk("You are 33.", "answer")
        return True

    monkeypatch.setattr(ChatSession, "_stream", stream)
    printed = typed(run_folder, monkeypatch, capsys, "How old am I?").out
    assert ("You are 33.  (not sure)" in printed) is marked and "You are 33." in printed


@pytest.mark.parametrize(
    ("text", "questions"),
    [
        ("My dog is called Rex.", ["What is my dog called?"]),
        ("hi, my locker number is 12 and my keys are red", ["What is my locker number?", "What are my keys?"]),
        ("My sister's birthday is in May! My car was stolen.", ["What is my sister's birthday?", "What is my car?"]),
        ("What is my dog called? Is my cat here?", []),
        ("I live in Porto.", []),
    ],
)
def test_what_was_mentioned_is_asked_for(text, questions):
    assert questions_about([text]) == questions


def test_the_newest_mentions_are_asked_for_once():
    said = [f"My thing number {number} is red." for number in range(30)] + ["My thing number 29 is blue."]
    asked = questions_about(said)
    assert asked[-1] == "What is my thing number 29?"
    assert len(asked) == len(set(asked)) == 20


def test_replies_are_laid_out_in_lines():
    chunks = [
        ("think", " hm\n\n"),
        ("think", "well\x1b"),
        ("answer", "\n Tom"),
        ("answer", "\n\n"),
        ("answer", "and\nI"),
    ]
    text = "".join(text for _, text in laid_out(Chunk(text, block) for block, text in chunks))
    assert text == "think  hm\n       well\nmodel  Tom\n       and\n       I"
    assert "".join(laid_out([])) == ""
    assert printable("a\x07b\tc\u200d🐱\ud800") == "ab c\u200d🐱"


def test_memory_is_shown_in_words():
    level, change = np.ones((2, 300)), np.zeros((2, 300))
    change[1, 7] = 0.5
    text = memory_text(MemoryChange(level, change, np.full((2, 300), 0.25), np.array([0.1, 0.2])))
    assert "memory: 2 layers of 300 slots" in text
    assert "the tallest 50 %" in text
    assert "layer 1  changed by 0 %, 25 % away from empty, slots 20 % alike" in text
    assert "most in slot 7 (50 %)" in text
    assert max(map(len, text.splitlines())) <= 80
    quiet = memory_text(MemoryChange(level, 0 * change, level, np.array([0.1, 0.2])))
    assert "nothing was written since it began or was loaded" in quiet
    assert len(quiet.splitlines()) == 3


def test_commands_are_split_and_words_are_not():
    assert split_command("My cat /is/ Tom.") == ("", "")
    assert split_command("/save  my file.npz ") == ("/save", "my file.npz")
    assert split_command("/Quit") == ("/quit", "")
    with pytest.raises(ValueError, match="there is no command /; /help lists all"):
        split_command("/")


def test_chat_imports_nothing_that_it_does_not_need():
    code = "import sys, rxt_jax.cli.chat; print({'grain', 'orbax', 'matplotlib', 'tensorboardX'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stdout + done.stderr
