"""Lists the files of `serve_app` that a request enters, for docs/architecture.md.

    python scripts/request_path.py            # count and list them
    python scripts/request_path.py --write    # and put them into the page

A file counts where one of its functions runs while the request is answered; what ran once before,
at start or for an earlier request, does not. The application runs in this process, in Ray Serve's
local testing mode behind the middleware that its proxy would have. S3 is moto's server.
"""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_SERVE_LOG_TO_STDERR", "0")

import asyncio
import contextlib
import gc
import io
import json
import logging
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "architecture.md"
BEGIN, END = "<!-- made by scripts/request_path.py -->", "<!-- end -->"
PACKAGE = str(ROOT / "serve_app") + os.sep
MOVED = PACKAGE + os.path.join("core", "moved.py")
"""Looks at every import."""

MOST = {"/loss": 28, "/generate": 28, "plainmed score": 26, "s3:// to a loaded encoder": 18}
"""What is counted, and the most files it may enter."""

ORIGINAL = "Aspirin lowers the risk of stroke. It was given once a day to 200 adults for a year."
GENERATED = "Aspirin makes a stroke less likely in adults."


class Recorder:
    """Notes the files whose functions run inside `recording`, in any thread, as they come."""

    def __init__(self) -> None:
        self.files: dict[str, None] = {}
        self._on = False
        threading.setprofile(self._called)
        sys.setprofile(self._called)

    def _called(self, frame: FrameType, event: str, _: object) -> None:
        if self._on and event == "call":
            code = frame.f_code
            name = code.co_filename.removeprefix(PACKAGE)
            if name != code.co_filename and name not in self.files and not _importing(frame):
                self.files[name] = None

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        self._on = True
        try:
            yield
        finally:
            self._on = False


def _importing(frame: FrameType | None) -> bool:
    """Whether a frame runs because a module is being imported."""
    while frame is not None:
        code = frame.f_code
        if code.co_filename == MOVED:
            return True
        if code.co_name == "<module>" and code.co_filename.startswith(PACKAGE):
            return True
        frame = frame.f_back
    return False


def over_http(path: str, bodies: list[dict[str, Any]], recorder: Recorder) -> None:
    """Sends the bodies to the application; the last one is recorded."""
    from ray import serve

    from serve_app.serving.deployments import gateway
    from serve_app.serving.proxy.middleware import middlewares

    # What a replica knows and local testing has not.
    replica = SimpleNamespace(app_name="default", replica_id=SimpleNamespace(unique_id="here"))
    serve.get_replica_context = lambda: replica
    gateway._host_of_serve = lambda: "127.0.0.1"

    from serve_app.app import build

    serve.run(build({"settings": {"device": "cpu"}}), _local_testing_mode=True)
    [ingress] = [
        one
        for one in gc.get_objects()
        if "Gateway" in (kind.__name__ for kind in type(one).__mro__)
    ]
    app = ingress.__serve_build_asgi_app__()
    for middleware in middlewares():
        app = middleware.cls(app, *middleware.args, **middleware.kwargs)
    asyncio.run(_send(app, path, bodies, recorder))


async def _send(app: Any, path: str, bodies: list[dict[str, Any]], recorder: Recorder) -> None:
    import httpx

    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as client:
        for body in bodies:
            last = body is bodies[-1]
            with recorder.recording() if last else contextlib.nullcontext():
                answer = await client.post(path, json=body, timeout=300)
            answer.raise_for_status()


def loss(recorder: Recorder) -> None:
    """POST /loss, a pair that no cache has."""
    bodies = [
        {"texts_original": [ORIGINAL + more], "texts_generated": [GENERATED + more]}
        for more in ("", " It is new.", " It is old.", " It is cheap.")
    ]
    over_http("/loss", bodies, recorder)


def generate(recorder: Recorder) -> None:
    """POST /generate with the extractive engine."""
    bodies = [
        {"text": ORIGINAL + more} for more in ("", " It is new.", " It is old.", " It is cheap.")
    ]
    over_http("/generate", bodies, recorder)


def score(recorder: Recorder) -> None:
    """`plainmed score` of one pair, in this process."""
    from serve_app.cli.main import app

    with tempfile.TemporaryDirectory() as folder:
        names = []
        for option, text in (("--original-file", ORIGINAL), ("--generated-file", GENERATED)):
            file = Path(folder) / option.strip("-")
            file.write_text(text, encoding="utf-8")
            names += [option, str(file)]
        with contextlib.redirect_stdout(io.StringIO()), recorder.recording():
            app(["score", *names], standalone_mode=False)


def from_s3(recorder: Recorder) -> None:
    """An `s3://` reference to an encoder that is ready to run."""
    import boto3
    from moto.server import ThreadedMotoServer

    from serve_app.core.settings import load_settings
    from serve_app.metrics.suite import load_relevance
    from serve_app.storage.artifacts import embedded_path

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    os.environ |= {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x"}  # nosec B105
    os.environ |= {"AWS_REGION": "us-east-1", "AWS_ENDPOINT_URL": f"http://{host}:{port}"}
    client = boto3.client("s3", region_name="us-east-1", endpoint_url=f"http://{host}:{port}")
    client.create_bucket(Bucket="models")
    encoder = embedded_path("all-MiniLM-L6-v2")
    for file in sorted(encoder.rglob("*")):
        if file.is_file():
            key = f"encoder/{file.relative_to(encoder).as_posix()}"
            client.upload_file(str(file), "models", key)
    with tempfile.TemporaryDirectory() as folder:
        settings = load_settings(
            device="cpu",
            cache_dir=folder,
            bertscore_model="s3://models/encoder/",
            bertscore_layer=5,
        )
        with recorder.recording():
            load_relevance(settings)
    server.stop()


WAYS: dict[str, Callable[[Recorder], None]] = dict(
    zip(MOST, (loss, generate, score, from_s3), strict=True)
)


def files_entered(way: str) -> list[str]:
    """The files of one way, in the order in which they are first entered; in a process of its own,
    since local testing mode can start only once."""
    done = subprocess.run(
        [sys.executable, __file__, "--only", way],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return list(json.loads(done.stdout.splitlines()[-1]))


def section() -> str:
    """The part of the page."""
    parts = []
    for way, most in MOST.items():
        files = files_entered(way)
        names = ", ".join(f"`{name}`" for name in files)
        parts.append(f"**{way}**: {len(files)} files (at most {most}): {names}.")
    return f"{BEGIN}\n" + "\n\n".join(parts) + f"\n{END}"


def main() -> None:
    """Prints one way as JSON, or all of them as the page has them."""
    if sys.argv[1:2] == ["--only"]:
        logging.disable(logging.INFO)
        recorder = Recorder()
        WAYS[sys.argv[2]](recorder)
        print(json.dumps(list(recorder.files)))
        sys.stdout.flush()
        os._exit(0)  # local testing mode leaves threads behind
    text = section()
    print(text)
    if "--write" in sys.argv:
        page = PAGE.read_text(encoding="utf-8")
        before, _, rest = page.partition(BEGIN)
        PAGE.write_text(before + text + rest.partition(END)[2], encoding="utf-8")


if __name__ == "__main__":
    main()
