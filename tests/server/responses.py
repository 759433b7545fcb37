"""responses: what a response of the API holds, read strictly."""

import json
from typing import Any


def events_in(stream: str) -> list[tuple[str, dict[str, Any]]]:
    """Server-sent events, read strictly: each is a name, one line of data and an empty line."""
    events = []
    assert stream.endswith("\n\n")
    for block in stream.removesuffix("\n\n").split("\n\n"):
        name, data = block.split("\n")
        assert name.startswith("event: ")
        assert data.startswith("data: ")
        events.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return events


def error_of(response) -> dict[str, Any]:
    """The error in a response that has nothing else."""
    body = response.json()
    assert body.keys() == {"error"}
    assert response.headers["content-type"] == "application/json"
    assert "Traceback" not in response.text
    return body["error"]
