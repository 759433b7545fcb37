"""Stdout and stderr of commands: any encoding, terminals, closed pipes, full disks, and progress bars in a log."""

import io
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from tqdm import tqdm

from pimsim.cli import main as pimsim_main
from ragcache.cli.main import main as ragcache_main
from ragcache.console.streams import PROGRESS_SECONDS, READER_GONE, SafeStream, run
from tests.props.terminal import on_terminal

ROOT = Path(__file__).parents[3]
PATIENCE = 60
NASTY = "Grüße 水 \x1b]0;OWNED\x07\x1b[2J \x9b31m \u202etxt \ud83d end"
# a command of the list whose work is these lines
AS_COMMAND = (
    "import sys; from ragcache.cli import main as cli\n"
    "def add_options(parser): pass\n"
    "def run(options):\n"
    "    {}\n"
    "    return 0\n"
    "cli.COMMANDS['query'] = cli.Command('__main__', 'do this')\n"
    "sys.exit(cli.main(['query']))"
)


def command(work: str) -> list[str]:
    return [sys.executable, "-c", AS_COMMAND.format(work.replace("\n", "\n    "))]


def ended(work: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        command(work), capture_output=True, timeout=PATIENCE, check=False, cwd=ROOT, env=os.environ | environment
    )


@pytest.mark.parametrize(
    ("encoding", "greeting"),
    [
        ("utf-8", "Grüße 水".encode()),
        ("ascii", rb"Gr\xfc\xdfe \u6c34"),
        ("ascii:strict", rb"Gr\xfc\xdfe \u6c34"),
        ("latin-1", b"Gr\xfc\xdfe \\u6c34"),
        ("utf-8:surrogateescape", "Grüße 水".encode()),
    ],
)
def test_every_encoding_shows_what_it_can_and_spells_the_rest(encoding, greeting):
    done = ended(f"print({NASTY!a}); print({NASTY!a}, file=sys.stderr)", PYTHONIOENCODING=encoding)
    assert done.returncode == 0, done.stderr
    wanted = greeting + rb" \x1b]0;OWNED\x07\x1b[2J \x9b31m \u202etxt \ud83d end" + b"\n"
    assert (done.stdout, done.stderr) == (wanted, wanted)


@pytest.mark.parametrize("locale", ["C", "C.UTF-8", "POSIX"])
def test_every_locale_is_served(locale):
    done = ended(f"print({NASTY!a})", LANG=locale, LC_ALL=locale, PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    assert done.returncode == 0, done.stderr
    assert b"OWNED" in done.stdout
    assert b"\x1b" not in done.stdout


def test_a_terminal_gets_no_control_characters_but_those_of_the_bar():
    work = (
        f"from tqdm import tqdm\nfor piece in {list(NASTY)!a}: print(piece, end='', flush=True)\n"
        "print()\nfor _ in tqdm(range(3), desc='a\\x1b[2J', disable=None): pass"
    )
    shown = on_terminal(command(work))
    assert b"\x1b" not in shown
    assert rb"\x1b]0;OWNED\x07" in shown
    assert b"\ra" in shown
    assert b"100%|" in shown


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("where", ["stdout", "stderr"])
def test_a_closed_pipe_ends_a_command_without_a_word(where, unbuffered):
    """As `| head -1`: also where all is written, and the rest lies in a buffer."""
    for lines in (1, 20_000):
        process = subprocess.Popen(
            command(f"import time; time.sleep(0.3)\nfor n in range({lines}): print('line', n, file=sys.{where})"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=ROOT,
            env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
        )
        closed, left = (process.stdout, process.stderr) if where == "stdout" else (process.stderr, process.stdout)
        assert closed is not None
        assert left is not None
        closed.close()
        assert left.read() == b""
        assert process.wait(PATIENCE) == READER_GONE
        left.close()


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["serve", "--help"], ["no-such-command"]])
def test_a_closed_pipe_is_no_error_of_the_lists_either(arguments):
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "ragcache", *arguments],
        stdout=writing if arguments[0] != "no-such-command" else None,
        stderr=writing if arguments[0] == "no-such-command" else subprocess.PIPE,
        timeout=PATIENCE,
        check=False,
        cwd=ROOT,
    )
    os.close(writing)
    assert done.returncode == (2 if arguments[0] == "no-such-command" else READER_GONE)
    assert not done.stderr


def test_a_log_without_a_reader_is_no_error(tmp_path):
    """A server goes on, and ends as it would have, when whoever read its log has gone."""
    work = (
        "import logging\nfrom ragcache.console.log import configured\n"
        "with configured('info', 'text'):\n    for n in range(2000): logging.getLogger('ragcache').info('line %d', n)\n"
        f"open({str(tmp_path / 'done')!r}, 'w').close()"
    )
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(command(work), stderr=writing, timeout=PATIENCE, check=False, cwd=ROOT)
    os.close(writing)
    assert done.returncode == 0
    assert (tmp_path / "done").exists()


EVALUATIONS = [path for path in sorted((ROOT / "eval").glob("*.py")) if "__main__" in path.read_text("utf-8")]


@pytest.mark.parametrize("path", EVALUATIONS, ids=lambda path: path.stem)
def test_every_evaluation_writes_as_safely(path):
    assert path.read_text("utf-8").rstrip().endswith(f'sys.exit(streams.run(main, "eval.{path.stem}"))')


@pytest.mark.full(proof="test_a_closed_pipe_ends_a_command_without_a_word")
def test_an_evaluation_ends_without_a_word_when_its_reader_goes():
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "eval.paper", "--help"],
        stdout=writing,
        stderr=subprocess.PIPE,
        timeout=PATIENCE,
        cwd=ROOT,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (READER_GONE, b"")


def test_simulate_into_head(tmp_path):
    trace = tmp_path / "t.jsonl"
    trace.write_text("".join(json.dumps({"t": n, "path": [str(n % 9)], "sizes": [10]}) + "\n" for n in range(40)))
    line = (
        f"{sys.executable} -m ragcache simulate --trace {trace} --format paths --policy all --capacity 30,50 | head -1"
    )
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {line}"], capture_output=True, timeout=PATIENCE, check=False, cwd=ROOT
    )
    assert done.stdout.count(b"\n") == 1
    assert done.stderr == b""
    assert done.returncode in (0, READER_GONE)  # where all of it is written before `head` ends


def test_a_full_disk_is_one_line():
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            command("print('x' * 100)"), stdout=full, stderr=subprocess.PIPE, timeout=PATIENCE, check=False, cwd=ROOT
        )
    assert done.returncode == 1
    assert done.stderr.startswith(b"ragcache")
    assert done.stderr.endswith(b"No space left on device\n")
    assert done.stderr.count(b"\n") == 1


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_disk_is_no_success_of_the_lists_either(unbuffered):
    with Path("/dev/full").open("wb") as full:
        environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
        arguments = [sys.executable, "-m", "ragcache", "--version"]
        done = subprocess.run(
            arguments, stdout=full, stderr=subprocess.PIPE, timeout=PATIENCE, check=False, cwd=ROOT, env=environment
        )
    assert done.returncode == 1
    assert done.stderr == b"ragcache: cannot write to stdout: No space left on device\n"


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_streams_that_the_parent_closed_are_nobody_s_fault(closed):
    words = shlex.join(command("print(1); print(2, file=sys.stderr)"))
    done = subprocess.run(["bash", "-c", f"{words} {closed}"], capture_output=True, timeout=PATIENCE, cwd=ROOT)
    assert done.returncode == 0
    assert b"Traceback" not in done.stderr


def test_errors_name_things_in_one_line():
    done = ended(
        "from ragcache.errors import ConfigError; raise ConfigError('no \\x1b[2Jdocument\\nragcache query: ok')"
    )
    assert done.returncode == 1
    assert done.stderr == b"ragcache query: no \\x1b[2Jdocument\\nragcache query: ok\n"


def test_warnings_without_a_log_are_one_line_each():
    done = ended("import logging; logging.getLogger('ragcache.x').warning('%s is odd', 'a\\nb\\x9b')")
    assert done.stderr == b"a\\nb\\x9b is odd\n"


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_bar_in_a_log_is_a_line_from_time_to_time():
    clock, raw = Clock(), io.StringIO()
    stream = SafeStream(raw, redraws=True, clock=clock)
    with tqdm(total=100, desc="embedding", unit="doc", file=stream, mininterval=0, miniters=1) as bar:
        for _ in range(100):
            bar.update()
            clock.now += PROGRESS_SECONDS / 40
    print("done", file=stream)
    lines = raw.getvalue().splitlines()
    assert "\r" not in raw.getvalue()
    assert len(lines) == 5
    assert lines[0].startswith("embedding:   0%")
    assert lines[-2].startswith("embedding: 100%  100/100")
    assert lines[-1] == "done"
    assert not any("█" in line or "|" in line for line in lines)


def test_a_bar_that_is_cleared_leaves_what_was_shown_and_no_more():
    clock, raw = Clock(), io.StringIO()
    stream = SafeStream(raw, redraws=True, clock=clock)
    for _ in tqdm(range(50), file=stream, leave=False, mininterval=0):
        pass
    assert raw.getvalue().count("\n") == 1
    assert "\r" not in raw.getvalue()


@pytest.mark.parametrize("to_line", [None, "<{}>".format])
def test_a_line_that_comes_while_a_bar_waits_stays_whole(to_line):
    raw = io.StringIO()
    stream = SafeStream(raw, redraws=True, clock=Clock())
    stream.to_line = to_line
    with tqdm(total=2, desc="BAR", file=stream, mininterval=0, miniters=1) as bar:  # the first state is written
        bar.update()
        print("x", file=stream)  # as two writes: the text, and the end of the line
        print("y", end="", file=stream)
        bar.update()
        print(file=stream)
    lines = [line.strip("<>") for line in raw.getvalue().splitlines()]
    assert [line for line in lines if line and "BAR" not in line] == ["x", "y"]
    assert [line.split(":")[0] for line in lines if "BAR" in line] == ["BAR", "BAR"]


@pytest.mark.parametrize(("to_line", "drawn"), [(None, True), ("<{}>".format, False)])
def test_a_bar_on_a_terminal_is_drawn_unless_a_log_is_shown_there(monkeypatch, to_line, drawn):
    raw = io.StringIO()
    monkeypatch.setattr(raw, "isatty", lambda: True)
    stream = SafeStream(raw, redraws=True)
    stream.to_line = to_line
    with tqdm(total=2, file=stream, mininterval=0) as first, tqdm(total=2, file=stream, mininterval=0) as second:
        second.update(2)
        first.update(2)
    assert ("\r" in raw.getvalue()) == ("\x1b" in raw.getvalue()) == drawn
    assert all(line.startswith("<") for line in raw.getvalue().splitlines()) != drawn


def test_a_line_that_was_begun_ends_with_its_form():
    raw = io.StringIO()
    stream = SafeStream(raw)
    print("bare", end="", file=stream)
    stream.to_line = "<{}>".format
    print("begun", end="", file=stream)
    stream.to_line = None
    print("plain", file=stream)
    assert raw.getvalue() == "bare\n<begun>\nplain\n"


def test_a_carriage_return_of_an_answer_is_spelled():
    raw = io.StringIO()
    stream = SafeStream(raw)
    print("\rfrom:   another", file=stream)
    assert raw.getvalue() == "\\rfrom:   another\n"


@pytest.mark.full(proof="test_a_bar_in_a_log_is_a_line_from_time_to_time")
def test_progress_of_index_in_a_log_is_lines(tmp_path):
    corpus = tmp_path / "c.jsonl"
    corpus.write_text("".join(json.dumps({"id": f"d{n}", "text": f"Text {n}."}) + "\n" for n in range(3)))
    done = subprocess.run(
        [sys.executable, "-m", "ragcache", "index", "--corpus", corpus, "--out", tmp_path / "i"],
        capture_output=True,
        timeout=PATIENCE,
        check=True,
        cwd=ROOT,
    )
    assert b"embedding" in done.stderr
    assert b"\r" not in done.stderr


@pytest.mark.parametrize("closed", ["stdout", "stderr"])
def test_what_goes_to_a_closed_stream_goes_nowhere_else(monkeypatch, closed):
    kept = io.StringIO()
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, None if name == closed else kept)

    def work() -> int:
        print("an answer")
        print("a figure", file=sys.stderr)
        return 3

    assert run(work, "name") == 3
    assert kept.getvalue() == ("a figure\n" if closed == "stdout" else "an answer\n")
    assert getattr(sys, closed) is None


def test_an_error_of_a_command_whose_stderr_is_closed_is_not_on_stdout(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stderr", None)
    assert ragcache_main(["query", "--url", "localhost:1", "Why"]) == 1
    assert pimsim_main(["run", "no-such-system"]) != 0
    with pytest.raises(SystemExit):
        ragcache_main(["query"])
    assert capsys.readouterr().out == ""
