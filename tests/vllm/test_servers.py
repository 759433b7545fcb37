"""Whole servers: vLLM's alone with the connector, as the README has it, and `ragcache serve --engine vllm`.

The `vllm` command of the CPU build looks for the GPU build's package and fails; its server starts as a module.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from ragcache.model.checkpoint import Checkpoint

TRANSFER = {
    "kv_connector": "RagCacheConnector",
    "kv_connector_module_path": "ragcache.engine.vllm.connector",
    "kv_role": "kv_both",
    "kv_load_failure_policy": "recompute",
    "kv_connector_extra_config": {"host_cache": "1GiB"},
}
SMALL = ["--dtype", "float32", "--block-size", "32", "--max-model-len", "1024", "--num-gpu-blocks-override", "48"]
TEXT = " ".join(f"Fact {n}: item {n * 7} weighs {n * 13} grams and costs {n * 3} coins." for n in range(20))


def call(url, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as response:
        return response.read().decode()


@contextlib.contextmanager
def server(*command, ready, end=signal.SIGTERM):
    """A server on a free port, once `ready` answers; ended by SIGTERM, or with all its processes by SIGKILL."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("VLLM_")}
    environment["VLLM_SERVER_DEV_MODE"] = "1"  # for /reset_prefix_cache
    process = subprocess.Popen(
        [sys.executable, "-m", *command, "--port", str(port)],
        env=environment,
        start_new_session=True,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        latest = time.monotonic() + 150
        while True:
            try:
                call(url + ready)
                break
            except (urllib.error.URLError, ConnectionError):
                assert process.poll() is None, "the server has ended"
                assert time.monotonic() < latest, "the server is not ready"
                time.sleep(0.5)
        yield url
        if end is signal.SIGTERM:
            process.send_signal(end)
            process.wait(40)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_vllm_serve_alone_answers_a_chat_and_reports_external_hits():
    model = Checkpoint.resolve("default").location
    arguments = ["--model", model, "--enforce-eager", "--kv-transfer-config", json.dumps(TRANSFER), *SMALL]
    chat = {
        "model": model,
        "messages": [{"role": "system", "content": TEXT}, {"role": "user", "content": "What does item 14 weigh?"}],
        "max_tokens": 8,
        "temperature": 0,
    }
    memory = ["--kv-cache-memory-bytes", str(100 << 20)]
    with server("vllm.entrypoints.openai.api_server", *arguments, *memory, ready="/health") as url:
        first = json.loads(call(f"{url}/v1/chat/completions", chat))
        call(f"{url}/reset_prefix_cache", {})
        second = json.loads(call(f"{url}/v1/chat/completions", chat))
        metrics = call(f"{url}/metrics")
    assert first["choices"][0]["message"]["content"] == second["choices"][0]["message"]["content"]
    assert second["kv_transfer_params"]["cached_tokens"]["host"] > 300
    hits = [line for line in metrics.splitlines() if line.startswith("vllm:external_prefix_cache_hits_total")]
    assert sum(float(line.rsplit(" ", 1)[1]) for line in hits) > 300


@pytest.fixture(scope="module")
def index(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("index")
    rows = [{"id": f"d{n}", "title": f"Topic {n}", "text": TEXT[n * 40 : n * 40 + 900]} for n in range(4)]
    (folder / "docs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = [sys.executable, "-m", "ragcache", "index", "--quiet", "--corpus", str(folder / "docs.jsonl")]
    subprocess.run([*command, "--out", str(folder / "idx")], check=True, timeout=120)
    return folder / "idx" / "faiss.idx"


OVER_VLLM = ["--engine", "vllm", "--vllm-options", '{"enforce_eager": true}', "--device-cache", "100MiB"]
QUESTION = {"question": "What does item 14 weigh?", "max_tokens": 8}


def test_ragcache_serve_answers_over_vllm_and_starts_again_from_disk(index, tmp_path):
    options = [*OVER_VLLM, "--host-cache", "200MiB", "--disk-cache", f"{tmp_path}:256MiB", "--index", str(index)]
    with server("ragcache", "serve", *options, ready="/readyz") as url:
        answers = [json.loads(call(f"{url}/v1/query", QUESTION)) for _ in range(2)]
        time.sleep(2)  # what is to be written is
    with server("ragcache", "serve", *options, ready="/readyz") as url:
        answers.append(json.loads(call(f"{url}/v1/query", QUESTION)))
    usages = [answer["usage"] for answer in answers]
    assert len({answer["answer"] for answer in answers}) == 1
    assert not any(usages[0]["cached_tokens"].values())
    assert usages[1]["cached_tokens"]["device"] > 200
    assert usages[2]["cached_tokens"]["disk"] > 200
    for usage in usages:
        assert usage["computed_tokens"] + sum(usage["cached_tokens"].values()) == usage["prompt_tokens"]


def test_a_server_killed_while_it_stores_starts_again_and_answers_the_same(index, tmp_path):
    options = [*OVER_VLLM, "--host-cache", "200MiB", "--disk-cache", f"{tmp_path}:256MiB", "--index", str(index)]
    questions = [QUESTION | {"question": f"What does item {item} cost?", "max_tokens": 6} for item in (7, 70, 133)]
    with server("ragcache", "serve", *options, ready="/readyz", end=signal.SIGKILL) as url:
        first = [json.loads(call(f"{url}/v1/query", question))["answer"] for question in questions]
    with server("ragcache", "serve", *options, ready="/readyz") as url:
        assert [json.loads(call(f"{url}/v1/query", question))["answer"] for question in questions] == first
