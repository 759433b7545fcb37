"""`ragcache serve` before it serves: in its form "json", nothing but lines of the log reaches stderr."""

import json

import pytest

from ragcache.cli import serve
from ragcache.cli.main import command_parser
from ragcache.console.streams import run
from ragcache.errors import ConfigError

NESTED = "[" * 3000 + "]" * 3000


def called(*words: str) -> int:
    """Calls the command as `ragcache serve` does, but for the line that says an error."""
    options = command_parser("serve").parse_args(words)
    return run(lambda: serve.run(options), "ragcache")


def messages(errors: str) -> list[str]:
    return [json.loads(line)["message"] for line in errors.splitlines()]


@pytest.mark.parametrize("where", ["option", "file", "file with blanks"])
def test_a_setting_that_cannot_be_used_is_a_line_of_the_log(tmp_path, capfd, where):
    words = ["--index", "i", "--port", "99999"]
    if where == "option":
        words += ["--log-format", "json"]
    else:
        name = "log_format" if where == "file" else "log-format"
        (tmp_path / "s.toml").write_text(f"top_k = 3\n{name} = 'json'\n")
        words += ["--config", str(tmp_path / "s.toml")]
    assert called(*words) == 1
    assert messages(capfd.readouterr().err) == ["port must be at most 65535, not 99999"]


@pytest.mark.parametrize("wrong", ["topk = 3", "disk_cache = 'kv'"])
def test_so_is_what_the_file_has_wrong(tmp_path, capfd, wrong):
    (tmp_path / "s.toml").write_text(f"{wrong}\nlog-format = 'json'\n")
    assert called("--index", "i", "--config", str(tmp_path / "s.toml")) == 1
    assert len(messages(capfd.readouterr().err)) == 1


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_file_that_is_nested_too_deeply_is_one_line(tmp_path, capfd, form):
    (tmp_path / "s.toml").write_text(f"log_format = 'json'\nmodel = {NESTED}\n")
    words = ["--index", "i", "--log-format", form, "--config", str(tmp_path / "s.toml")]
    if form == "text":
        with pytest.raises(ConfigError, match=r"s\.toml is not valid TOML"):
            called(*words)
    else:
        assert called(*words) == 1
        assert "s.toml is not valid TOML" in messages(capfd.readouterr().err)[0]


@pytest.mark.parametrize(
    "text",
    [None, "log_format = ", "log_format = 'text'", "log_format = 'xml'", "top_k = 0", f"log_format = {NESTED}"],
)
def test_in_another_form_it_is_an_error(tmp_path, text):
    words = ["--index", "i", "--port", "99999"]
    if text is not None:
        (tmp_path / "s.toml").write_text(text)
        words += ["--config", str(tmp_path / "s.toml")]
    with pytest.raises(ConfigError):
        called(*words)


def test_an_interruption_before_it_serves_is_a_line_of_the_log(capfd, monkeypatch):
    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(serve, "_serve", interrupted)
    with pytest.raises(SystemExit) as caught:
        called("--index", "i", "--log-format", "json")
    assert caught.value.code == 130
    assert messages(capfd.readouterr().err) == ["stopped before it was ready"]
    with pytest.raises(KeyboardInterrupt):  # for which the command has a word
        called("--index", "i")
