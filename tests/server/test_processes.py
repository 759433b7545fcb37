"""`ragcache serve` and `ragcache query` as a user runs them: processes, ports, signals, exit codes."""

import contextlib
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from ragcache.cli.main import main
from ragcache.errors import ConfigError
from server.app import create_app
from server.run import HttpServer, bind
from server.signals import ECHO_SECONDS
from tests.server.conftest import until
from tests.server.serving import PATIENCE
from tests.server.tiered_site import metrics_of


@pytest.fixture
def command(capsys) -> Iterator[Callable[..., tuple[int, str, str]]]:
    """Runs a command in this process: exit status, stdout, stderr."""
    before = signal.getsignal(signal.SIGTERM)

    def call(*arguments: str) -> tuple[int, str, str]:
        status = main(arguments)
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return status, out, err

    yield call
    signal.signal(signal.SIGTERM, before)


def slow_stream(client: httpx.Client, max_tokens: int) -> Any:
    body = {"question": "What is rust?", "stream": True, "max_tokens": max_tokens}
    return client.stream("POST", "/v1/query", json=body)


def test_serve_answer_query_and_end(serve, command, tmp_path):
    """The whole life of a server: settings from a file, an answer, the command-line client, SIGTERM amid an answer."""
    settings = tmp_path / "serve.toml"
    settings.write_text('max_tokens = 300\ndevice_cache = "4MiB"\ntop_k = 1\n')
    serving = serve("--config", str(settings), "--top-k", "3")
    with serving.ready() as client:
        body = client.post("/v1/query", json={"question": "Why do otters hold hands?", "max_tokens": 6}).json()
        assert body["usage"]["completion_tokens"] == 6
        assert len(body["documents"]) == 3  # the option wins over the file
        assert client.get("/v1/cache").json()["tiers"]["device"]["bytes"]["total"] == 4 << 20
        url = str(client.base_url)
        status, out, err = command("query", "Why do otters hold hands?", "--url", url, "--max-tokens", "6")
        assert status == 0
        assert out == body["answer"] + "\n"
        assert "from:   Otter, " in err
        cached = body["usage"]["prompt_tokens"] - body["usage"]["computed_tokens"]
        assert cached == 0
        assert re.search(r"prompt: \d+ tokens, [1-9]\d* from the cache, \d+ computed", err)
        assert re.search(r"time: +\d+ ms to the first token, \d+ ms in all", err)
        status, out, err = command("query", "why?", "--url", url, "--top-k", "99")
        assert (status, out) == (1, "")
        assert err == "ragcache query: top_k is 99; the corpus has 16 documents (HTTP 422)\n"
        taken = url.rpartition(":")[2]
        status, _, err = command("serve", "--index", "unread", "--port", taken)
        assert status == 1
        assert err == (
            f"ragcache serve: cannot listen on 127.0.0.1:{taken}: Address already in use; "
            "choose another --host or --port\n"
        )
        with slow_stream(client, 300) as response:
            lines = response.iter_lines()
            while next(lines) != "event: delta":
                pass
            serving.process.terminate()
            rest = list(lines)
        assert "event: done" in rest
        assert json.loads(rest[-2].removeprefix("data: "))["usage"]["completion_tokens"] == 300
    assert serving.process.wait(PATIENCE) == 0
    assert "Traceback" not in serving.errors


@pytest.mark.timing
def test_a_taken_port_is_reported_before_anything_is_loaded(command):
    with socket.create_server(("127.0.0.1", 0)) as holder:
        begin = time.monotonic()
        status, _, err = command("serve", "--index", "unread", "--port", str(holder.getsockname()[1]))
        assert time.monotonic() - begin < 2
    assert status == 1
    assert "Address already in use" in err


@pytest.mark.full(proof="test_serve_answer_query_and_end")
def test_after_a_grace_too_short_it_still_ends_well_and_soon(serve):
    serving = serve("--max-tokens", "8000", "--grace-seconds", "0.2")
    with serving.ready() as client, slow_stream(client, 8000 - 400) as response:
        lines = response.iter_lines()
        while next(lines) != "event: delta":
            pass
        status, seconds = serving.end()
        assert status == 0
        assert seconds < 6, serving.errors
        assert list(lines)[-3] == "event: error"  # the client is told that it has not got all
    assert "Traceback" not in serving.errors


@pytest.mark.full(proof="test_serve_answer_query_and_end")
def test_ctrl_c_ends_it_too(serve):
    serving = serve()
    serving.ready().close()
    assert serving.end(signal.SIGINT)[0] == 0
    assert "Traceback" not in serving.errors


def test_nothing_answers_before_it_is_ready():
    """The port is bound first, so that a busy one is reported at once, but it refuses until all is loaded."""
    with bind("127.0.0.1", 0) as bound, pytest.raises(ConnectionRefusedError):
        socket.create_connection(bound.getsockname(), timeout=5)


@pytest.mark.parametrize("host", ["256.1.1.1", "no.such.host.invalid", "203.0.113.7", "a" * 70])
def test_an_address_that_cannot_be_had(host):
    with pytest.raises(ConfigError, match=f"cannot listen on {re.escape(host)}:0: .*choose another --host"):
        bind(host, 0)


def test_two_that_load_at_once_for_one_port(make_service):
    """Both bind, neither listens yet: the second must get a message when it begins to serve, not a traceback."""
    with bind("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with bind("127.0.0.1", port) as second:
            first.listen()
            with pytest.raises(ConfigError, match=f"cannot listen on 127.0.0.1:{port}: Address already in use"):
                HttpServer(create_app(make_service()), second, grace_seconds=1)


def edited(index: Path, into: Path, **changes: Any) -> str:
    shutil.copytree(index, into)
    manifest = json.loads((into / "manifest.json").read_text())
    (into / "manifest.json").write_text(json.dumps(manifest | changes))
    return str(into / "faiss.idx")


def test_an_index_of_another_embedder_is_refused(command, tiny_index, tiny_folder, tmp_path):
    index = edited(tiny_index, tmp_path / "index", embedder_fingerprint="0123456789abcdef")
    status, _, err = command("serve", "--index", index, "--model", str(tiny_folder), "--port", "0")
    assert status == 1
    assert "built with embedder 'default' (0123456789abcdef), but 'default' is another model" in err
    assert "build the index again" in err


def test_an_index_that_is_not_what_its_manifest_says_is_refused(command, tiny_index, tmp_path):
    for number, (changes, message) in enumerate(
        [({"documents": 17}, "manifest says 17"), ({"dim": 12}, "of 12"), ({"corpus_fingerprint": "0"}, "not those")]
    ):
        index = edited(tiny_index, tmp_path / str(number), **changes)
        status, _, err = command("serve", "--index", index, "--port", "0")
        assert status == 1
        assert message in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--index", "/no/such/faiss.idx", "--port", "0"], "/no/such"),
        ([], "no index: pass --index"),
        (["--config", "/no/such.toml"], "cannot read /no/such.toml: No such file or directory"),
        (["--index", "i", "--device-cache", "much"], "'much' is not a size"),
        (["--index", "i", "--top-k", "0"], "top_k must be at least 1, not 0"),
        (["--index", "i", "--port", "70000"], "port must be at most 65535"),
        (["--index", "i", "--host", "256.1.1.1"], "cannot listen on 256.1.1.1:8000"),
    ],
)
def test_what_cannot_be_served_is_said_in_one_line(command, arguments, message):
    status, _, err = command("serve", *arguments)
    assert status == 1
    assert message in err
    assert err.splitlines()[-1].startswith("ragcache serve: ")


@pytest.mark.parametrize(
    ("model", "message"),
    [("/no/such/model", "no model at /no/such/model"), ("nobody/nothing", "no model 'nobody/nothing'")],
)
def test_a_missing_model_is_said_in_one_line(command, tiny_index, model, message):
    status, _, err = command("serve", "--index", str(tiny_index), "--model", model, "--port", "0")
    assert status == 1
    assert err.splitlines()[-1].startswith(f"ragcache serve: {message}")


def test_a_query_without_a_server(command):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    status, out, err = command("query", "why?", "--url", f"http://127.0.0.1:{port}")
    assert (status, out) == (1, "")
    assert err.startswith(f"ragcache query: no answer from http://127.0.0.1:{port}: ")
    assert "is `ragcache serve` running there?" in err


def test_a_query_that_is_no_text_says_so_itself(command):
    status, out, err = command("query", "caf\udce9", "--url", "http://127.0.0.1:9")
    assert (status, out) == (1, "")
    assert err == f"ragcache query: the question is not in {sys.getfilesystemencoding()}, this terminal's encoding\n"


def test_a_query_does_not_wait_for_torch():
    code = (
        "import sys; from ragcache.cli.main import main; status = main(['query', 'why?', '--url', 'http://127.0.0.1:9']);"
        "print(status, sorted({'torch', 'transformers', 'faiss', 'fastapi'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE, check=True)
    assert done.stdout == "1 []\n"


@pytest.mark.parametrize("arguments", [["--help"], ["serve", "--help"], ["query", "--help"], ["index", "--help"]])
def test_help_tells_the_options(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 0
    out = capsys.readouterr().out
    assert "usage: ragcache" in out
    assert len(out.splitlines()) > 5


@pytest.mark.parametrize("arguments", [[], ["fly"], ["serve", "--bogus"], ["query"], ["serve", "--top-k", "two"]])
def test_a_command_line_that_makes_no_sense_is_refused(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: ragcache" in capsys.readouterr().err


def test_sigterm_while_it_loads_removes_what_is_half_written(tmp_path):
    """A signal before it serves unwinds like Ctrl-C, so that temporary files go."""
    code = (
        "import os, signal, sys, tempfile; from ragcache.cli import main as cli\n"
        "def add_options(parser): parser.add_argument('question')\n"
        "def run(options):\n"
        f"    with tempfile.TemporaryDirectory(dir={str(tmp_path)!r}): os.kill(os.getpid(), signal.SIGTERM)\n"
        "cli.COMMANDS['query'] = cli.Command('__main__', 'be interrupted')\n"
        "sys.exit(cli.main(['query', 'x']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE)
    assert (done.returncode, done.stderr) == (128 + signal.SIGTERM, "")
    assert list(tmp_path.iterdir()) == []


def stream_until_delta(client: httpx.Client, stack: contextlib.ExitStack, max_tokens: int) -> Iterator[str]:
    lines: Iterator[str] = stack.enter_context(slow_stream(client, max_tokens)).iter_lines()
    while next(lines) != "event: delta":
        pass
    return lines


@pytest.mark.full(proof="test_signals_that_come_during_a_reload_ask_for_one_more_together")
def test_sighup_reloads_and_a_second_sigterm_ends_at_once(serve, tiny_index, tmp_path):
    """A terminal that closes, `systemctl reload`, and an operator in a hurry."""
    shutil.copytree(tiny_index, tmp_path / "index")
    serving = serve("--max-tokens", "8000", index=tmp_path / "index")
    while "loading" not in serving.errors:
        time.sleep(0.01)
    serving.process.send_signal(signal.SIGHUP)  # while it loads
    with serving.ready() as client, contextlib.ExitStack() as stack:
        until(lambda: reloads_of(client) == 1)
        lines = stream_until_delta(client, stack, 300)
        serving.process.send_signal(signal.SIGHUP)
        assert "event: done" in list(lines)
        until(lambda: reloads_of(client) == 2)
        assert client.get("/readyz").json() == {"status": "ready"}
        running = stream_until_delta(client, stack, 7000)
        serving.process.terminate()
        until(lambda: client_is_refused(client))
        assert serving.process.poll() is None  # the answer runs
        time.sleep(ECHO_SECONDS)
        assert next(running)
        status, seconds = serving.end()
    assert status == 128 + signal.SIGTERM
    assert seconds < 2
    assert serving.errors.rstrip().endswith("a second signal (SIGTERM): the server ends at once")
    assert "Traceback" not in serving.errors


def reloads_of(client: httpx.Client) -> float:
    return metrics_of(client)["ragcache_index_reloads_total", "done"]


def client_is_refused(client: httpx.Client) -> bool:
    try:
        httpx.get(client.base_url.join("/healthz"), trust_env=False)
    except httpx.TransportError:
        return True
    return False


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_that_a_callback_of_c_swallows_comes_again(tmp_path, number, status):
    """As a compiler's into Python do: what is raised there is reported, and the compiler goes on."""
    code = f"""
import ctypes, os, sys, tempfile, time
from ragcache.cli import main as cli
COMPARE = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
def compare(a, b):
    os.kill(os.getpid(), {int(number)})
    return 0
def add_options(parser): parser.add_argument("question")
def run(options):
    with tempfile.TemporaryDirectory(dir={str(tmp_path)!r}):
        ctypes.CDLL(None).qsort((ctypes.c_int * 2)(2, 1), 2, 4, COMPARE(compare))
        print("went on", flush=True)
        time.sleep(60)
cli.COMMANDS["query"] = cli.Command("__main__", "be interrupted")
sys.exit(cli.main(["query", "x"]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE)
    assert (done.returncode, done.stdout) == (status, "went on\n")
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.full(proof="test_at_the_limit_those_that_wait_longest_make_room")
def test_a_server_with_few_files_answers_among_idle_connections(serve):
    """A port scan, or a client's broken pool: more connections than the process may have files."""
    serving = serve(files=200)
    with serving.ready() as client:
        address = (client.base_url.host, client.base_url.port)
        held = [socket.create_connection(address, timeout=PATIENCE) for _ in range(300)]
        for _ in range(3):
            assert httpx.get(client.base_url.join("/healthz"), trust_env=False, timeout=5).status_code == 200
        for each in held:
            each.close()
        assert client.get("/healthz").status_code == 200
    assert serving.end()[0] == 0
    said = [line for line in serving.lines if "are open" in line]
    assert len(said) == 1
    assert len(serving.lines) < 10
    assert "Traceback" not in serving.errors


def test_the_soft_limit_of_files_is_raised_to_the_hard_one():
    code = (
        "import resource as r; from server.crowd import most_connections, raise_file_limit\n"
        "r.setrlimit(r.RLIMIT_NOFILE, (100, 300)); before = most_connections(); raise_file_limit()\n"
        "print(r.getrlimit(r.RLIMIT_NOFILE), 0 < before < 100, 200 < most_connections() < 240)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE, check=True)
    assert done.stdout == "(300, 300) True True\n"
