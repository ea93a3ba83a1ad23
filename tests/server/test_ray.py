"""Ray Serve: two replicas share a folder, so either of them can go on with a conversation."""

import os

import pytest
from loopback import http, until

# Ray gives its proxy five seconds to start, which a busy machine does not have.
os.environ.setdefault("RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S", "120")
os.environ.setdefault("RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S", "120")

ray = pytest.importorskip("ray", reason="the extra `ray` is optional")


@pytest.mark.slow
def test_replicas_go_on_with_each_others_conversations(parrot, tmp_path):
    from ray import serve

    from rxt_jax.run_folder import write_run
    from rxt_jax.server.ray_adapter import ray_application

    write_run(tmp_path / "parrot", *parrot)
    ray.init(num_cpus=2, include_dashboard=False, _node_ip_address="127.0.0.1")
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": 8123})
        serve.run(ray_application(str(tmp_path / "parrot"), tmp_path / "kept", replicas=2, slots=1))
        base = "http://127.0.0.1:8123"
        until(lambda: all(http.get(f"{base}/ready").status_code == 200 for _ in range(8)), 300)
        identity = None
        for session in range(6):  # another session each time, so that replicas take turns
            body = {"input": "Hello.", "previous_response_id": identity}
            made = http.post(f"{base}/v1/responses", json=body, headers={"x-session-id": str(session)}).json()
            assert made["status"] == "completed", made
            identity = made["id"]
    finally:
        serve.shutdown()
        ray.shutdown()
