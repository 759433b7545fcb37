"""Every fenced block of the documentation runs as it stands; one that cannot says why, and its commands parse."""

import contextlib
import importlib
import io
import json
import re
import signal
import sys
import time
import tomllib
from functools import cache

import pytest

from ragcache.cli.config import ServeConfig
from ragcache.engine.vllm.wire.settings import ConnectorSettings
from server.client import RagClient, ServerError
from server.schemas import AnswerBody
from tests.docs.pages import BLOCKS, PAGES, ROOT, SCRIPTS, Block, commands_of, inline_code

PATIENCE = 60
# Why a block may stay unrun. A reason that is not here needs a decision.
REASONS = {
    "installs packages",
    "runs the test suite",
    "needs vLLM",
    "needs 200 GiB of disk",
}
RUN = [block for block in BLOCKS if block.language in ("sh", "python") and block.reason is None]
SERVING = [block for block in RUN if "ragcache serve" in block.text]
# these ask a server, load a model or simulate for seconds
ASKS = re.compile(r"curl|ragcache query|RagClient\(\"")
SLOW = re.compile(
    r"ragcache (index|corpus|profile|profile-search|query)\b|open_service|-m eval\."
    r"|pimsim|hardware|--policy all|RagClient\(\""
)
QUICK = [block for block in RUN if block not in SERVING and not SLOW.search(block.text)]
REST = [block for block in RUN if block not in SERVING and block not in QUICK]


def named(blocks: list[Block]) -> list[object]:
    return [pytest.param(block, id=str(block)) for block in blocks]


def test_there_are_blocks_to_run():
    assert len(QUICK) >= 5
    assert len(REST) >= 20
    assert len(SERVING) >= 2


@pytest.mark.parametrize("block", named([block for block in BLOCKS if block.reason is not None]))
def test_a_block_that_is_not_run_says_why(block):
    assert block.reason in REASONS


def test_each_reason_is_used():
    assert {block.reason for block in BLOCKS} - {None} == REASONS


def test_each_block_has_a_language_that_is_checked():
    languages = {"sh", "python", "json", "toml", "text"}
    assert [str(block) for block in BLOCKS if block.language not in languages] == []


@pytest.mark.parametrize("block", named(QUICK))
def test_a_quick_block_runs(block, request):
    request.getfixturevalue("served_desk" if ASKS.search(block.text) else "desk").run(block)


@pytest.mark.full(proof="test_commands_parse")
@pytest.mark.parametrize("block", named(REST))
def test_a_slow_block_runs(block, request):
    request.getfixturevalue("served_desk" if ASKS.search(block.text) else "desk").run(block)


@pytest.mark.full(proof="test_commands_parse")
@pytest.mark.parametrize("block", named(SERVING))
def test_a_block_that_serves_gets_ready_and_ends(block, desk):
    server = desk.start(block)
    try:
        assert server.stdout is not None
        lines = []
        for line in server.stdout:
            lines.append(line)
            if " on http://" in line:
                break
        url = re.search(r" on (http://\S+)", lines[-1])
        assert url is not None, "".join(lines)
        deadline = time.monotonic() + PATIENCE
        while True:  # the line is printed a moment before the server listens
            with contextlib.suppress(ServerError), RagClient(url[1]) as client:
                assert client.get("/readyz") == {"status": "ready"}
                break
            assert time.monotonic() < deadline
            time.sleep(0.05)
        server.send_signal(signal.SIGTERM)
        assert server.wait(PATIENCE) == 0
    finally:
        server.kill()
        server.communicate()


@pytest.mark.parametrize("block", named([block for block in BLOCKS if block.language == "json"]))
def test_json_is_an_answer(block):
    assert set(AnswerBody.model_validate(json.loads(block.text)).model_dump(mode="json")) == set(json.loads(block.text))


@pytest.mark.parametrize("block", named([block for block in BLOCKS if block.language == "toml"]))
def test_toml_holds_settings_of_serve(block, tmp_path):
    file = tmp_path / "server.toml"
    file.write_text(block.text, encoding="utf-8")
    config = ServeConfig.load(file, {})
    assert set(tomllib.loads(block.text)) <= set(config.__slots__)


@pytest.mark.parametrize("block", named([block for block in BLOCKS if block.language == "python"]))
def test_python_blocks_import_what_there_is(block):
    compile(block.text, str(block), "exec")
    imports = [line for line in block.text.splitlines() if re.match(r"(from|import) ", line)]
    exec("\n".join(imports), {})


@cache
def usage(module: str, command: tuple[str, ...]) -> str:
    """What `--help` prints, in this process."""
    printed = io.StringIO()
    arguments, sys.argv = sys.argv, [module, *command, "--help"]
    try:
        with contextlib.redirect_stdout(printed), pytest.raises(SystemExit) as ended:
            importlib.import_module(module).main()
    finally:
        sys.argv = arguments
    assert ended.value.code == 0, f"{module} has no command {' '.join(command)}"
    return printed.getvalue()


def check(words: list[str]) -> None:
    """AssertionError if the command line names a command, option or target that does not exist."""
    program, *rest = words
    name = program.removeprefix(".venv/bin/").removeprefix(".venv-vllm/bin/")
    if name == "make":
        targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
        assert {word for word in rest if "=" not in word} <= targets
    elif name == "vllm":
        config = json.loads(rest[rest.index("--kv-transfer-config") + 1])
        ConnectorSettings.of(config["kv_connector_extra_config"])
        assert (ROOT / f"{config['kv_connector_module_path'].replace('.', '/')}.py").exists()
    elif name in SCRIPTS:
        depth = 2 if rest[0] == "corpus" else 1
        known_options(SCRIPTS[name].partition(":")[0], tuple(rest[:depth]), rest)
    elif name == "python" and rest[:1] == ["-m"]:
        module = rest[1]
        if module == "eval.bench_vllm":  # which needs vLLM even for its help
            source = (ROOT / "eval" / "bench_vllm.py").read_text(encoding="utf-8")
            assert all(f'"{word}"' in source for word in rest if word.startswith("--"))
        elif module.startswith("eval."):
            known_options(module, (), rest)
        elif module.startswith("vllm."):
            pass  # of another project
        else:
            assert (ROOT / f"{module.replace('.', '/')}.py").exists(), f"there is no module {module}"
    else:
        there = ("cat", "printf", "curl", "python3", "git", "pip", "rm")
        assert name in there, f"is {name} there on the reader's machine?"


def known_options(module: str, command: tuple[str, ...], words: list[str]) -> None:
    text = usage(module, command)
    for word in words:
        if word.startswith("--"):
            option = word.partition("=")[0]
            assert re.search(rf"{option}(?![\w-])", text), f"{module} {' '.join(command)} has no option {option}"


@pytest.mark.parametrize("block", named([block for block in BLOCKS if block.language == "sh"]))
def test_commands_parse(block):
    for words in commands_of(block.text):
        check(words)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_in_the_text_parse(page):
    for code in inline_code(page):
        words = code.split()
        if "…" in code or len(words) < 2 or any(word in words for word in ("vllm", "bin")):
            continue
        if words[0] in ("make", "ragcache", "pimsim") or words[0].startswith(".venv"):
            check(words if words[0].startswith(".venv-vllm") else [words[0].removeprefix(".venv/bin/"), *words[1:]])
        elif words[:2] == ["python", "-m"] and words[2].startswith(("eval.", "pimsim.")):
            check(words)


def test_a_wrong_option_is_seen():
    with pytest.raises(AssertionError, match="no option --polici"):
        check([".venv/bin/ragcache", "simulate", "--polici", "lru"])
    with pytest.raises(AssertionError, match="no command"):
        check([".venv/bin/ragcache", "simulat"])
