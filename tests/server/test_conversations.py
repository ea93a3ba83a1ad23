"""Conversations across servers, kills and keys: the memory of the last completed turn is there, bit for bit."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import openai
import pytest
from compilations import count_compilations
from loopback import PATIENT, http, until

from rxt_jax.server import ServerConfig, TierLimits, app

ROOT = Path(__file__).parents[2]


def open_client(server, key="none"):
    return openai.OpenAI(base_url=server.url, api_key=key, max_retries=0)


def memory(server, conversation, key="none"):
    headers = {"Authorization": f"Bearer {key}"}
    return http.get(f"{server.url}/conversations/{conversation}/memory", headers=headers)


def test_a_conversation_moves_to_another_server(start, tmp_path, client, server):
    here = client.conversations.create().id
    assert memory(server, here).status_code == 404
    client.responses.create(input="Hello.", conversation=here)
    content = memory(server, here).read()
    other = start()
    there = open_client(other)
    moved = there.conversations.create().id
    assert http.put(f"{other.url}/conversations/{moved}/memory", content=content).status_code == 200
    answers = [each.responses.create(input="Give it a title.", conversation=identity).output_text
               for each, identity in ((client, here), (there, moved))]  # fmt: skip
    assert answers[0] == answers[1]
    assert memory(other, moved).read() == memory(server, here).read()
    # What waits for a result waits there too.
    call = client.responses.create(input="Compare.", tool_choice="required", conversation=here)
    http.put(f"{other.url}/conversations/{moved}/memory", content=memory(server, here).read())
    with pytest.raises(openai.BadRequestError, match="no tool output found"):
        there.responses.create(input="Hello.", conversation=moved)
    given = [{"type": "function_call_output", "call_id": item.call_id, "output": "warm"} for item in call.output]
    assert there.responses.create(input=given, conversation=moved).status == "completed"
    for wrong, code in ((content[:-1], "damaged_memory"), (b"x", "damaged_memory")):
        refused = http.put(f"{other.url}/conversations/{moved}/memory", content=wrong)
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, code)
    stranger = start(fingerprint="another")
    lost = open_client(stranger).conversations.create().id
    refused = http.put(f"{stranger.url}/conversations/{lost}/memory", content=content)
    assert refused.json()["error"]["code"] == "foreign_memory"


def test_a_restart_goes_on_and_a_damaged_memory_is_named(start):
    first = start()
    client = open_client(first)
    one = client.responses.create(input="Hello.")
    two = client.responses.create(input="Give it a title.", previous_response_id=one.id)
    first.stop()
    second = start()
    client = open_client(second)
    assert client.responses.retrieve(two.id).output_text == two.output_text
    assert client.responses.create(input="Hello.", previous_response_id=two.id).output_text == "Hello you."
    name = second.service.index.response(one.id, "").memory
    file = second.service.memories.file(name)
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(bytes(content))
    with pytest.raises(openai.InternalServerError, match=f"memory {name} is damaged"):
        client.responses.create(input="Hello.", previous_response_id=one.id)
    file.unlink()
    with pytest.raises(openai.NotFoundError, match="is gone"):
        client.responses.create(input="Hello.", previous_response_id=one.id)


def test_what_belongs_to_a_key_is_not_there_for_others(start):
    server = start(keys={"k-ann": "ann", "k-bob": "bob"}, config=ServerConfig(conversations_per_key=2))
    ann, bob = open_client(server, "k-ann"), open_client(server, "k-bob")
    conversation = ann.conversations.create().id
    response = ann.responses.create(input="Hello.", conversation=conversation)
    for refused in (
        lambda: bob.responses.retrieve(response.id),
        lambda: bob.responses.delete(response.id),
        lambda: bob.responses.cancel(response.id),
        lambda: bob.responses.create(input="Hi", previous_response_id=response.id),
        lambda: bob.responses.create(input="Hi", conversation=conversation),
        lambda: bob.conversations.retrieve(conversation),
        lambda: bob.conversations.delete(conversation),
    ):
        with pytest.raises(openai.NotFoundError):
            refused()
    assert memory(server, conversation, "k-bob").status_code == 404
    history = [{"role": "user", "content": "Hello."}]
    said = ann.chat.completions.create(model="parrot", messages=history).choices[0].message.content
    history += [{"role": "assistant", "content": said}, {"role": "user", "content": "Hello."}]
    used = [each.chat.completions.create(model="parrot", messages=history).usage.prompt_tokens_details.cached_tokens
            for each in (bob, ann)]  # fmt: skip
    assert used[0] == 0 < used[1]
    with pytest.raises(openai.AuthenticationError):
        open_client(server, "k-eve").models.list()
    assert http.get(f"{server.url}/models").status_code == 401
    ann.conversations.create()
    with pytest.raises(openai.RateLimitError, match="2 conversations"):
        ann.conversations.create()
    bob.conversations.create()


def test_a_full_queue_and_deadlines_have_their_status(start, held):
    server = start(config=ServerConfig(queue_size=1, queue_seconds=PATIENT))
    client = open_client(server)
    streams = []
    held.hold()
    for _ in range(4):
        streams.append(client.responses.create(input="Compare.", stream=True))
        until(lambda: server.service.engine.busy_slots == len(streams))
    streams.append(client.responses.create(input="Hello.", stream=True))
    until(lambda: server.service.engine.queue_length == 1)
    with pytest.raises(openai.RateLimitError) as refused:
        client.responses.create(input="Hello.")
    assert int(refused.value.response.headers["retry-after"]) >= 1
    held.release()
    assert [list(stream)[-1].type for stream in streams] == ["response.completed"] * 5
    *_, last = open_client(start(config=ServerConfig(queue_seconds=0.0))).responses.create(input="Hello.", stream=True)
    assert (last.type, last.response.error.code) == ("response.failed", "queue_deadline")
    hurried = start(config=ServerConfig(turn_seconds=0.0))
    with pytest.raises(openai.InternalServerError) as late:
        open_client(hurried).responses.create(input="Hello.")
    assert late.value.status_code == 504


def test_the_disk_forgets_the_oldest_and_says_so(start):
    server = start(config=ServerConfig(limits=TierLimits(disk_mib=0.004)))
    client = open_client(server)
    first = client.responses.create(input="Hello.")
    for _ in range(8):
        client.responses.create(input="Hello.")
    server.service.memories.sweep()
    with pytest.raises(openai.NotFoundError) as gone:
        client.responses.create(input="Hello.", previous_response_id=first.id)
    assert gone.value.code == "memory_expired"
    assert client.responses.retrieve(first.id).output_text == "Hello you."


def test_what_nobody_uses_moves_down_by_itself(start, monkeypatch):
    monkeypatch.setattr(app, "SWEEP_SECONDS", 0.1)
    server = start(config=ServerConfig(limits=TierLimits(device_seconds=0.1, host_seconds=0.2)))
    response = open_client(server).responses.create(input="Hello.")
    until(lambda: [server.service.memories.sizes()[tier].memories for tier in ("device", "host", "disk")] == [0, 0, 1])
    assert open_client(server).responses.create(input="Hello.", previous_response_id=response.id).status == "completed"


def test_health_readiness_and_metrics(server, client):
    client.responses.create(input="Hello.")
    assert http.get(f"{server.address}/health").json() == {"status": "ok"}
    assert http.get(f"{server.address}/ready").json() == {"ready": True}
    text = http.get(f"{server.address}/metrics").text
    numbers = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert int(numbers['rxt_turns_total{outcome="completed"}']) >= 1
    assert int(numbers["rxt_first_token_seconds_count"]) >= 1
    assert int(numbers['rxt_memories{tier="disk"}']) >= 1
    assert numbers["rxt_slots"] == "4"


def test_nothing_compiles_once_the_server_is_ready(server, client):
    with count_compilations() as compiled:
        conversation = client.conversations.create().id
        one = client.responses.create(input="Hello.", conversation=conversation, instructions="Be kind.")
        content = memory(server, conversation).read()
        http.put(f"{server.url}/conversations/{conversation}/memory", content=content)
        # From the disk, from the host and from the device; sampled and greedy, long and short.
        for memories in (server.service.memories._device, server.service.memories._host):
            memories.held.clear()
        for options in ({}, {"temperature": 0.7, "top_p": 0.9, "extra_body": {"seed": 3}}, {"max_output_tokens": 3}):
            client.responses.create(input="Hello. " * 8, previous_response_id=one.id, **options)
            client.responses.create(input="Hello.", conversation=conversation, include=["memory.change"], **options)
    assert not compiled


def test_a_turn_is_logged_without_its_contents(client, caplog):
    with caplog.at_level("INFO", logger="rxt_jax.server.turns"):
        client.responses.create(input="Hello.")
        until(lambda: caplog.records)
    (line,) = [record.message for record in caplog.records]
    assert '"outcome": "completed"' in line and '"first_token_ms"' in line
    assert "Hello" not in line


PROGRAM = """
import pathlib, sys, time
from rxt_jax.cli.main import main
from rxt_jax.server.programs import Programs
make, hold = Programs.make, pathlib.Path(sys.argv[2] + ".hold")

def held_make(programs, slots):
    if not hold.exists():
        return make(programs, slots)
    time.sleep(0.01)
    return [[] for _ in slots], [True for _ in slots]

Programs.make = held_make
main(["serve", sys.argv[1], "--port", "0", "--folder", sys.argv[2], "--slots", "1"])
"""


@pytest.mark.slow
def test_a_killed_server_goes_on_where_its_last_completed_turn_was(parrot, tmp_path):
    from rxt_jax.run_folder import write_run

    run, folder, hold = tmp_path / "parrot", tmp_path / "kept", tmp_path / "kept.hold"
    write_run(run, *parrot)
    memories = {}
    conversation = None
    for round_ in range(2):
        process = subprocess.Popen([sys.executable, "-c", PROGRAM, str(run), str(folder)], stdout=subprocess.PIPE,
                                   text=True, cwd=ROOT)  # fmt: skip
        try:
            place = next(line.split()[-1] for line in process.stdout if "API" in line)
            client = openai.OpenAI(base_url=place, api_key="none", max_retries=0)
            conversation = conversation or client.conversations.create().id

            def held(place=place, conversation=conversation):
                return http.get(f"{place}/conversations/{conversation}/memory").read()

            if round_:
                assert held() == memories["last"]
                assert client.responses.create(input="Hello.", conversation=conversation).output_text == "Hello you."
                assert client.responses.retrieve(memories["id"]).output_text == "A chat."
                process.terminate()
                assert process.wait(PATIENT) == 0
                return
            client.responses.create(input="Hello.", conversation=conversation)
            memories["id"] = client.responses.create(input="Give it a title.", conversation=conversation).id
            memories["last"] = held()
            # Killed in the middle of a turn, which must leave nothing.
            hold.touch()
            stream = client.responses.create(input="Compare.", conversation=conversation, stream=True)
            next(iter(stream))
        finally:
            process.kill()
            process.wait()
            hold.unlink(missing_ok=True)


def test_memories_of_two_branches_are_those_of_their_turns(server, client):
    conversation = client.conversations.create().id
    client.responses.create(input="Hello.", conversation=conversation)
    before = memory(server, conversation).read()
    client.responses.create(input="Hello.", conversation=conversation, max_output_tokens=1)
    parsed = [
        server.service.memories.parse(content, source="").values
        for content in (before, memory(server, conversation).read())
    ]
    assert np.abs(parsed[0] - parsed[1]).max() > 0
