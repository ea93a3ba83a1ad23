"""`rxt chat http://…`: the chat of a terminal against a server."""

import io

import numpy as np
import pytest

from rxt_jax.cli.main import main
from rxt_jax.cli.remote_session import RemoteSession
from rxt_jax.model import SamplingConfig


def chat(server, monkeypatch, capsys, *lines):
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines)))
    assert main(["chat", server.address]) == 0
    return capsys.readouterr()


def test_a_pipe_talks_to_a_server(server, monkeypatch, capsys, tmp_path):
    kept = tmp_path / "m.safetensors"
    lines = ["/memory", "Hello.", "/memory", f"/save {kept}", "/think extended", "Two and two?", "/think fast"]
    lines += ["/reset", f"/load {kept}"]
    printed = chat(server, monkeypatch, capsys, *lines, "Give it a title.", "/facts", "word " * 300)
    said = printed.out.splitlines()
    for line in ("model  Hello you.", "think  add them", "model  Four.", "model  A chat.", f"memory taken from {kept}"):
        assert line in said
    assert "nothing was written since the conversation began" in printed.out
    assert "memory: 2 layers of 4 slots" in said and any(line.startswith("layer 1  changed by ") for line in said)
    assert "/facts needs the memory here" in printed.out
    assert "line 12: the input is" in printed.err and kept.stat().st_size > 100


def test_turns_go_on_from_one_another(server):
    session = RemoteSession(f"{server.url}/")
    assert session.model == "parrot"
    assert "".join(session.send("Hello.")) == "Hello you."
    first = session._last
    "".join(session.send("Give it a title."))
    assert server.service.index.response(session._last, "").body["previous_response_id"] == first


def test_an_abandoned_reply_writes_nothing(server, held):
    session = RemoteSession(server.address)
    "".join(session.send("Hello."))
    last = session._last
    held.hold(chunks=2)
    reply = session.send("Compare.")
    reply.close()
    reply = session.send("Give it a title.")
    next(reply)
    reply.close()
    assert session._last == last
    held.release()
    assert "".join(session.send("Hello.")) == "Hello you."


def test_results_of_tools(server):
    session = RemoteSession(server.address)
    with pytest.raises(ValueError, match="0 tool calls wait"):
        session.send(tool_result="sunny")
    session._begin["tool_choice"] = "required"
    (call,) = session.send("How is Porto?")
    assert (call, call.block) == ('look {"at": "Porto"}', "tool_call")
    with pytest.raises(ValueError, match="no tool output found"):
        "".join(session.send("Hello."))
    assert "".join(session.send(tool_result="sunny")) == "It is sunny."


def test_what_cannot_be_reached_or_done_is_said(server, capsys, tmp_path):
    assert main(["chat", "http://127.0.0.1:9"]) == 2
    assert "no server answers at http://127.0.0.1:9/v1" in capsys.readouterr().err
    with pytest.raises(ValueError, match="top-k"):
        RemoteSession(server.address, sampling=SamplingConfig(temperature=1.0, top_k=5))
    session = RemoteSession(server.address, sampling=SamplingConfig(temperature=0.5, top_p=0.9))
    with pytest.raises(ValueError, match="nothing has been said"):
        session.export_memory(tmp_path / "m")
    np.save(tmp_path / "m.npy", np.zeros(3))
    with pytest.raises(ValueError, match="no memory file"):
        session.import_memory(tmp_path / "m.npy")
