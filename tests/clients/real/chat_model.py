"""A language model for a chat about pictures: it has each picture edited by the chat's own tool, and then says so."""

from __future__ import annotations

import contextlib
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

NAME = "a-chat-model"
TOOL = "edit_image"
SAID = "Here it is."


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self._answer("application/json", json.dumps({"data": [{"id": NAME, "object": "model"}]}))

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        message, reason = reply(asked)
        choice = {"index": 0, "finish_reason": reason}
        if asked.get("stream"):
            chunk = json.dumps({"object": "chat.completion.chunk", "choices": [choice | {"delta": message}]})
            self._answer("text/event-stream", f"data: {chunk}\n\ndata: [DONE]\n\n")
        else:
            completion = {"object": "chat.completion", "choices": [choice | {"message": message}]}
            self._answer("application/json", json.dumps(completion))

    def _answer(self, kind: str, body: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: Any) -> None:
        """Nothing."""


def reply(asked: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """The message, and the reason why it ends."""
    tools = [tool["function"]["name"] for tool in asked.get("tools", ())]
    last = asked["messages"][-1]
    if TOOL not in tools or last["role"] != "user":
        return {"role": "assistant", "content": SAID}, "stop"
    *files, words = (part["text"] for part in last["content"] if part["type"] == "text")
    arguments = {"prompt": words, "image_urls": re.findall(r' url="([^"]+)"', files[0])}
    function = {"name": TOOL, "arguments": json.dumps(arguments)}
    calls = [{"index": 0, "id": "call-1", "type": "function", "function": function}]
    return {"role": "assistant", "tool_calls": calls}, "tool_calls"


@contextlib.contextmanager
def chat_model() -> Iterator[str]:
    """Its base URL."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
        server.shutdown()
