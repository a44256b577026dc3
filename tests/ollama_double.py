"""A server on a real socket that answers like an Ollama: with captured bodies, or whatever a test scripts."""

from __future__ import annotations

import contextlib
import json
import math
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

CAPTURES = Path(__file__).parent / "data" / "ollama"


def captured(name: str) -> tuple[int, bytes]:
    """Status and body of a captured answer."""
    capture = json.loads((CAPTURES / f"{name}.json").read_text())
    answer = capture.get("response", capture)
    return answer["status"], answer["body"].encode()


def chat(label: str, *, logprobs: list[dict[str, Any]] | None = None, done_reason: str = "stop") -> tuple[int, bytes]:
    """An answer in the shape of the captured ones, with this label."""
    _, body = captured("chat_schema")
    answer = json.loads(body)
    answer["message"]["content"] = json.dumps({"label": label})
    answer["done_reason"] = done_reason
    if logprobs is not None:
        answer["logprobs"] = logprobs
    return 200, json.dumps(answer).encode()


def with_shares(label: str, shares: Mapping[str, float]) -> tuple[int, bytes]:
    """The captured answer with logprobs, with this label and these probabilities where it begins."""
    _, body = captured("chat_schema_logprobs")
    answer = json.loads(body)
    answer["message"]["content"] = answer["message"]["content"].replace("User Action", label)
    start = next(at for at, token in enumerate(answer["logprobs"]) if token["token"] == "User")
    end = next(at for at in range(start, len(answer["logprobs"])) if answer["logprobs"][at]["token"] == '"')
    top = [
        {"token": name, "logprob": math.log(share), "bytes": list(name.encode())}
        for name, share in shares.items()
        if share
    ]
    answer["logprobs"][start:end] = [{**top[0], "token": label, "top_logprobs": top}]
    return 200, json.dumps(answer).encode()


Script = Callable[[dict[str, Any]], tuple[int, bytes] | None]


class OllamaDouble:
    """`script(request)` gives status and body of each question; None closes the connection in the middle of an answer.

    `load(request)` is asked the same for an empty chat, which loads the model. `requests` and `headers` keep the
    questions, `loads` the empty chats. Clearing `hang` makes questions hang, clearing `frozen` everything. With
    `drips` set an answer never ends, though something comes all the time. Use as a context manager.
    """

    def __init__(
        self,
        script: Script,
        *,
        load: Script | None = None,
        remote_host: str | None = None,
        digest: str = "0" * 64,
        port: int = 0,
    ) -> None:
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.loads: list[dict[str, Any]] = []
        self.loaded: str | None = None
        self.digest = digest
        self.hang, self.frozen = threading.Event(), threading.Event()
        self.hang.set()
        self.frozen.set()
        self.drips = threading.Event()
        self._script = script
        self._load = load or (lambda _: captured("chat_load_only"))
        double = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                double.frozen.wait(20)
                if self.path == "/api/ps":
                    models = [{"name": double.loaded, "digest": double.digest}] if double.loaded else []
                    self._answer(200, json.dumps({"models": models}).encode())
                    return
                self._answer(*captured("tags"))

            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                double.frozen.wait(20)
                if self.path == "/api/show":
                    self._answer(200, json.dumps({"remote_host": remote_host} if remote_host else {}).encode())
                    return
                if not request["messages"]:
                    double.loads.append(request)
                    answer = double._load(request)
                    double.loaded = request["model"] if answer and answer[0] == 200 else None
                else:
                    double.requests.append(request)
                    double.headers.append(dict(self.headers))
                    double.hang.wait(20)
                    answer = double._script(request)
                    if double.drips.is_set():
                        self._drip()
                        return
                if answer is None:
                    self.send_response(200)
                    self.send_header("Content-Length", "1000")
                    self.end_headers()
                    self.wfile.write(b'{"model":')
                    self.close_connection = True
                    return
                self._answer(*answer)

            def _answer(self, status: int, body: bytes) -> None:
                # The client may have given up.
                with contextlib.suppress(ConnectionError):
                    self.send_response(status)
                    self.send_header("Content-Type", "application/json")
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)

            def _drip(self) -> None:
                self.close_connection = True
                with contextlib.suppress(ConnectionError):
                    self.send_response(200)
                    self.send_header("Content-Length", "1000000")
                    self.end_headers()
                    while double.drips.is_set():
                        self.wfile.write(b" ")
                        threading.Event().wait(0.05)

            def log_message(self, *_: object) -> None:
                return

        class Server(ThreadingHTTPServer):
            request_queue_size = 128
            daemon_threads = True

            def handle_error(self, *_: object) -> None:
                """A client that goes away is no trouble of the test."""

        self._server = Server(("127.0.0.1", port), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def __enter__(self) -> OllamaDouble:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.hang.set()
        self.frozen.set()
        self.drips.clear()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
