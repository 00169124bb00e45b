"""What a real Serve with our middleware answers where a deployment, or all of it, cannot start.

Prints one JSON line: status and body of each request. Run alone, by test_cannot_start.py: it starts
a Ray of its own.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time

from ray import serve

from serve_app.serving.proxy.middleware import CALLBACK

BROKEN = {"deployment": {"model_path": "/no/such/model"}, "application": {"nonsense": "1"}}
TEXT = "Aspirin lowers the risk of stroke. It was given once a day to 200 adults."


def main() -> None:
    import httpx
    import ray
    from ray.serve.context import _get_global_client
    from ray.serve.schema import ServeDeploySchema

    os.environ[CALLBACK[0]] = CALLBACK[1]
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    settings = {"device": "cpu", **BROKEN[sys.argv[1]]}
    application = {
        "name": "plainmed",
        "import_path": "serve_app.app:build",
        "args": {"services": ["generator"], "settings": settings},
    }
    document = ServeDeploySchema.model_validate({"applications": [application]})
    _get_global_client().deploy_apps(document)
    until = time.monotonic() + 300
    while serve.status().applications["plainmed"].status != "DEPLOY_FAILED":
        assert time.monotonic() < until, serve.status()
        time.sleep(0.2)
    found = []
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120) as http:
        text = {"text": TEXT}
        chat = {"model": "plainmed", "messages": [{"role": "user", "content": TEXT}]}
        for path, body in (
            ("/generate", text),
            ("/generate", text),
            ("/v1/chat/completions", chat),
            ("/readyz", None),
        ):
            began = time.monotonic()
            answer = http.request("POST" if body else "GET", path, json=body)
            seconds = time.monotonic() - began
            found.append([answer.status_code, answer.json(), seconds, dict(answer.headers)])
    serve.shutdown()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
