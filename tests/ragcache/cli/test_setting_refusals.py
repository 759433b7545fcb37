"""Settings that would fail late, with a traceback or without their name are refused at once, in a line that has it."""

import argparse
from pathlib import Path

import pytest

from ragcache.cli.config import ServeConfig, read_toml
from ragcache.cli.main import command_parser, main
from ragcache.engine.torch.prefill_profiler import Plan
from ragcache.engine.vllm.wire.settings import ConnectorSettings
from ragcache.errors import ConfigError, ModelError
from ragcache.model.checkpoint import Checkpoint
from ragcache.replay.run import replay
from ragcache.sizes import DiskCache, in_bytes, parse_size
from retrieval.embedder import Embedder
from retrieval.errors import EmbedderError

NO_USER = "~no-such-user/x"
HUGE = "9" * 400


def from_file(tmp_path: Path, text: str, **options: object) -> ServeConfig:
    file = tmp_path / "serve.toml"
    file.write_text(text, encoding="utf-8")
    return ServeConfig.load(file, options)


def options_of(command: str, *words: str) -> argparse.Namespace:
    return command_parser(command).parse_args(words)


@pytest.mark.parametrize("threads", [1025, 30_000, 10**26])
def test_more_threads_than_can_be_started_are_refused(tmp_path, capsys, threads):
    line = f"threads must be at most 1024, not {threads}"
    with pytest.raises(ConfigError, match=line):
        ServeConfig(index=Path("i"), threads=threads)
    with pytest.raises(ConfigError, match=f"--{line}"):
        Plan(threads)
    workload = tmp_path / "w.jsonl"
    workload.write_text("")
    assert main(["replay", "--workload", str(workload), "--engine", "torch", "--threads", str(threads)]) == 1
    assert f"--{line}" in capsys.readouterr().err
    assert ServeConfig(index=Path("i"), threads=1024).threads == Plan(1024).threads == 1024


@pytest.mark.parametrize("name", ["index", "model", "profile", "disk_cache"])
def test_a_tilde_of_no_user_is_named_with_its_setting(tmp_path, name):
    value = f"{NO_USER}:1GiB" if name == "disk_cache" else NO_USER
    line = f"{name} is '{NO_USER}', which begins with no user's home folder: write the path from / on"
    with pytest.raises(ConfigError, match=line):
        ServeConfig.load(None, {"index": "i", name: value})
    with pytest.raises(ConfigError, match=line):
        from_file(tmp_path, f'{name} = "{value}"', **({} if name == "index" else {"index": "i"}))


def test_so_is_that_of_a_model_an_embedder_and_a_file_of_settings():
    with pytest.raises(ModelError, match=f"model is '{NO_USER}', which begins with no user's"):
        Checkpoint.resolve(NO_USER)
    with pytest.raises(EmbedderError, match=f"embedder is '{NO_USER}', which begins with no user's"):
        Embedder.load(NO_USER)
    with pytest.raises(ConfigError, match=f"cannot read {NO_USER}: No such file.*--config takes the path of a file"):
        read_toml(Path(NO_USER))


@pytest.mark.parametrize("name", ["device_cache", "host_cache", "disk_cache"])
@pytest.mark.parametrize("size", [HUGE, "1025TiB", "1" + "0" * 5000, "1." + "0" * 5000 + "B" + "x"])
def test_a_size_that_nothing_has_names_its_setting(name, size):
    value = f"/x:{size}" if name == "disk_cache" else size
    with pytest.raises(ConfigError, match=rf"^{name}: (a size is at most 1024TiB|'1\.0+Bx' is not a size): write"):
        ServeConfig.load(None, {"index": "i", name: value})


def test_sizes_elsewhere_name_their_option(tmp_path, capsys):
    workload = tmp_path / "w.jsonl"
    workload.write_text('{"t": 0, "path": ["a"], "sizes": [1], "question": 2, "output": 1}\n')
    for size in (HUGE, "-1", "much"):
        for option in ("--device-cache", "--host-cache"):
            assert main(["replay", "--workload", str(workload), f"{option}={size}"]) == 1
            assert capsys.readouterr().err.startswith(f"ragcache replay: {option}: ")
    for number in (10**400, 10**5000, -(10**5000), -1):
        with pytest.raises(ConfigError, match=r"^host_cache: "):
            replay(workload, host_cache=number)
    with pytest.raises(ConfigError, match=r"^kv_connector_extra_config: host_cache: a size"):
        ConnectorSettings.of({"host_cache": HUGE})


def test_sizes_are_exact_up_to_the_largest():
    assert parse_size("1125899906842623") == 2**50 - 1
    assert parse_size("1024TiB") == 2**50
    assert parse_size("0." + "0" * 4990 + "1k") == 0
    assert (in_bytes(1), in_bytes(0), in_bytes(1536)) == ("1 byte", "0 bytes", "1536 bytes (1.5 KiB)")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("/x:", "disk_cache: '' is not a size"),
        ("/x:8MiB", "disk_cache: a disk tier of 8388608 bytes .8.0 MiB. is too small; give it 16 MiB or more"),
    ],
)
def test_a_size_of_a_disk_cache_names_it(value, message):
    with pytest.raises(ConfigError, match=message):
        ServeConfig(index=Path("i"), disk_cache=value)
    with pytest.raises(ConfigError, match=message):
        ConnectorSettings(disk_cache=value)
    assert DiskCache.parse("/x:16MiB").size == 16 << 20


@pytest.mark.parametrize(
    "name", ["index", "model", "profile", "disk_cache", "host", "policy", "vllm_options", "cors_origin"]
)
def test_a_nul_character_is_refused_with_its_setting(tmp_path, name):
    value = {"disk_cache": '"a\\u0000:1GiB"', "cors_origin": '["a\\u0000b"]'}.get(name, '"a\\u0000b"')
    with pytest.raises(ConfigError, match=rf"^{name} (is|must be without) .*NUL|^{name} must be without NUL"):
        from_file(tmp_path, f"{name} = {value}", **({} if name == "index" else {"index": "i"}))


@pytest.mark.parametrize("name", ["disk_cache", "profile", "policy"])
def test_so_does_that_of_the_connector(name):
    with pytest.raises(ConfigError, match=f"kv_connector_extra_config: {name} must be without NUL"):
        ConnectorSettings.of({name: "\0:1GiB"})


@pytest.mark.parametrize("name", ["index", "model", "profile", "disk_cache"])
def test_a_name_too_long_for_a_file_is_refused_with_its_setting(tmp_path, name):
    long = "é" * 128  # bytes count
    value = f"{long}:1GiB" if name == "disk_cache" else long
    with pytest.raises(ConfigError, match=f"{name} has a part of 256 bytes, but files have names of at most 255"):
        ServeConfig.load(None, {"index": "i", name: value})
    with pytest.raises(ConfigError, match=f"{name} has 4096 bytes, but a path has at most 4095"):
        ServeConfig.load(None, {"index": "i", name: "/" + "a/" * 2047 + "a" + ":1GiB" * (name == "disk_cache")})
    instead = from_file(tmp_path, f'{name} = "{value}"', **{"index": "i", name: "x:1GiB"})
    assert str(getattr(instead, name)) == "x:1GiB"


def test_a_setting_that_is_there_twice_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"serve\.toml: top_k is there twice, with - and with _: leave one out"):
        from_file(tmp_path, 'index = "i"\ntop-k = 1\ntop_k = 2')


def test_an_error_of_the_system_is_a_line_without_its_number(capsys, monkeypatch):
    def fails(_: object) -> int:
        raise PermissionError(13, "Permission denied", "/some/where")

    monkeypatch.setattr("ragcache.cli.simulate.run", fails)
    words = ["simulate", "--trace", "t", "--format", "paths", "--policy", "lru", "--capacity", "1"]
    assert main(words) == 1
    assert capsys.readouterr().err == "ragcache simulate: /some/where: Permission denied\n"
