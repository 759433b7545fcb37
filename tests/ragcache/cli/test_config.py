"""Settings come from a file and from options, are checked once, and a wrong one is named."""

import dataclasses
from pathlib import Path

import pytest

from ragcache.cli.config import ServeConfig, option_kind, read_toml
from ragcache.cli.main import command_parser
from ragcache.cli.serve import config_of
from ragcache.errors import ConfigError
from ragcache.policy import LRU
from ragcache.sizes import DiskCache, parse_size

NAMES = [field.name for field in dataclasses.fields(ServeConfig)]
EVERY_SETTING = """\
index = "/data/faiss.idx"
model = "some/model"
top_k = 3
max_doc_tokens = 100
max_question_tokens = 50
max_tokens = 7
device_cache = "1.5GiB"
host_cache = "2GiB"
disk_cache = "/var/cache/kv:1GiB"
disk_cache_replace = true
kv_store_dtype = "float16"
cache = true
share_in_flight = false
policy = "sieve"
admission = "competes"
engine = "torch"
vllm_options = ""
host = "0.0.0.0"
port = 0
threads = 4
profile = "times.json"
prefill_chunk = 64
max_batch = 2
max_prefill_batch = 3
speculate = "dynamic"
order = "tree"
max_waiting = 0
reorder_window = 5
log_level = "warning"
log_format = "json"
grace_seconds = 5
header_seconds = 6
body_seconds = 7
keep_alive_seconds = 65
max_connections = 100
cors_origin = ["http://localhost:5173"]
"""
AS_READ = ServeConfig(
    index=Path("/data/faiss.idx"),
    model="some/model",
    top_k=3,
    max_doc_tokens=100,
    max_question_tokens=50,
    max_tokens=7,
    device_cache=3 << 29,
    host_cache=2 << 30,
    disk_cache="/var/cache/kv:1GiB",
    disk_cache_replace=True,
    kv_store_dtype="float16",
    cache=True,
    share_in_flight=False,
    policy="sieve",
    admission="competes",
    host="0.0.0.0",
    port=0,
    threads=4,
    profile="times.json",
    prefill_chunk=64,
    max_batch=2,
    max_prefill_batch=3,
    speculate="dynamic",
    order="tree",
    max_waiting=0,
    reorder_window=5,
    log_level="warning",
    log_format="json",
    grace_seconds=5.0,
    header_seconds=6.0,
    body_seconds=7.0,
    keep_alive_seconds=65.0,
    max_connections=100,
    cors_origin=("http://localhost:5173",),
)


def load(tmp_path: Path, text: str, **options: object) -> ServeConfig:
    file = tmp_path / "serve.toml"
    file.write_text(text, encoding="utf-8")
    return ServeConfig.load(file, options)


def from_options(*arguments: str) -> ServeConfig:
    options = command_parser("serve").parse_args(arguments)
    return config_of(options, read_toml(options.config))


def test_the_file_can_set_everything(tmp_path):
    assert load(tmp_path, EVERY_SETTING) == AS_READ
    assert all(f"{name} = " in EVERY_SETTING for name in NAMES)


def test_options_can_set_everything():
    arguments = []
    for line in EVERY_SETTING.splitlines():
        name, value = line.split(" = ")
        flag = "--" + name.replace("_", "-")
        switches = {"true": [flag], "false": [f"--no-{flag.removeprefix('--')}"]}
        arguments += switches.get(value, [flag, value.strip('["]')])
    assert from_options(*arguments) == AS_READ


def test_options_win_over_the_file_and_the_file_over_defaults(tmp_path):
    file = tmp_path / "serve.toml"
    file.write_text('index = "i"\ntop_k = 5\nport = 9000\ncache = false\n')
    config = from_options("--config", str(file), "--top-k", "7", "--cache")
    assert (config.top_k, config.port, config.cache, config.max_tokens) == (7, 9000, True, 128)


def test_an_option_equal_to_the_default_still_wins(tmp_path):
    file = tmp_path / "serve.toml"
    file.write_text('index = "i"\nport = 9000\nmax_waiting = 3\n')
    config = from_options("--config", str(file), "--port", "8000", "--max-waiting", "0")
    assert (config.port, config.max_waiting) == (8000, 0)


def test_defaults_are_those_of_the_readme():
    config = from_options("--index", "faiss.idx")
    assert (config.top_k, config.max_doc_tokens, config.host, config.port) == (2, 1024, "127.0.0.1", 8000)


def test_the_files_index_is_relative_to_the_file_and_the_options_to_here(tmp_path):
    assert load(tmp_path, 'index = "idx/faiss.idx"').index == tmp_path / "idx" / "faiss.idx"
    assert from_options("--index", "idx/faiss.idx").index == Path("idx/faiss.idx")


def test_the_files_profile_is_relative_to_the_file_but_auto_is_no_path(tmp_path):
    (tmp_path / "times.json").touch()
    assert load(tmp_path, 'index = "i"\nprofile = "times.json"\n').profile == str(tmp_path / "times.json")
    assert load(tmp_path, 'index = "i"\nprofile = "auto"\n').profile == "auto"


def test_a_tilde_in_the_index_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")
    assert load(tmp_path, 'index = "~/idx/faiss.idx"').index == Path("/home/ada/idx/faiss.idx")
    assert from_options("--index", "~/idx/faiss.idx").index == Path("/home/ada/idx/faiss.idx")


def test_dashes_are_read_as_the_options_are_written(tmp_path):
    assert load(tmp_path, 'index = "i"\ntop-k = 4\n').top_k == 4


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("topk = 3", "unknown setting 'topk'; known are index, model, top_k"),
        ("[serve]\ntop_k = 3", "unknown setting 'serve'"),
        ('top_k = "3"', "top_k must be of type int, not '3'"),
        ("top_k = 3.0", "top_k must be of type int"),
        ("top_k = true", "top_k must be of type int"),
        ("cache = 1", "cache must be of type bool"),
        ("model = 3", "model must be of type str"),
        ("index = 3", "index must be of type str"),
        ("index = ['a']", "index must be of type str"),
        ("host = 1", "host must be of type str"),
        ("grace_seconds = true", "grace_seconds must be of type float"),
        ('device_cache = "2 bananas"', "'2 bananas' is not a size"),
        ("device_cache = -1", "is not a size"),
        ("device_cache = true", "is not a size"),
        ('engine = "cpu"', "engine is one of torch, vllm"),
        ("vllm_options = '{\"block_size\": 16}'", "no use without --engine vllm"),
        ("engine = 'vllm'\nvllm_options = 'x=1'", "vllm_options is not valid JSON"),
        (f"engine = 'vllm'\nvllm_options = '{'[' * 5000}'", "vllm_options is not valid JSON"),
        ("engine = 'vllm'\nvllm_options = '[1]'", "must be a JSON object"),
        ("engine = 'vllm'\nkv_store_dtype = 'float16'", "leave out --kv-store-dtype"),
        ("engine = 'vllm'\npolicy = 'collections:Counter'", "Counter is not a policy, it lacks missed()"),
        ("top_k = 0", "top_k must be at least 1, not 0"),
        ('policy = "belady"', "there is no policy 'belady'; known are lru, lfu, gdsf, pgdsf, arc, "),
        ('admission = "no"', "admission is one of always, competes, not 'no'"),
        ("max_tokens = 0", "max_tokens must be at least 1"),
        ("max_doc_tokens = 15", "max_doc_tokens must be at least 16"),
        ("max_batch = 0", "max_batch must be at least 1"),
        ("max_waiting = -1", "max_waiting must be at least 0"),
        ("port = -1", "port must be at least 0"),
        ("port = 65536", "port must be at most 65535, not 65536"),
        ("grace_seconds = -0.1", "grace_seconds must be at least 0"),
        ("grace_seconds = nan", "grace_seconds must be a finite number"),
        ("grace_seconds = inf", "grace_seconds must be a finite number"),
        (f"grace_seconds = {10**400}", "grace_seconds must be a finite number"),
        (f"grace_seconds = {-(10**400)}", "grace_seconds must be a finite number"),
        (f"top_k = {'9' * 5000}", "not valid TOML"),
        (f"top_k = {'[' * 5000}", "not valid TOML"),
        ("top_k = ", "not valid TOML"),
    ],
)
def test_a_wrong_setting_is_named(tmp_path, line, message):
    index = "" if line.startswith("index") else 'index = "i"\n'
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, index + line)
    assert message in str(caught.value)


def test_vllm_takes_a_policy_of_ones_own_by_its_name_and_not_as_a_class(tmp_path):
    named = load(tmp_path, "index = 'i'\nengine = 'vllm'\npolicy = 'ragcache.policy:LRU'")
    assert (named.engine, named.policy) == ("vllm", "ragcache.policy:LRU")
    with pytest.raises(ConfigError, match="with --engine vllm, name the policy as module:Class, not <class"):
        ServeConfig(index=Path("i"), engine="vllm", policy=LRU)


@pytest.mark.parametrize("line", ["top_k = '3'", "topk = 3", "top_k = "])
def test_the_file_is_named(tmp_path, line):
    with pytest.raises(ConfigError, match=r"serve\.toml"):
        load(tmp_path, f'index = "i"\n{line}')


def test_a_missing_or_unreadable_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot read .*none\.toml: No such file"):
        ServeConfig.load(tmp_path / "none.toml", {})
    with pytest.raises(ConfigError, match=r"cannot read .*directory"):
        ServeConfig.load(tmp_path, {})
    (tmp_path / "latin.toml").write_bytes(b"model = '\xe9'")
    with pytest.raises(ConfigError, match="not valid TOML"):
        ServeConfig.load(tmp_path / "latin.toml", {})


def test_no_index_says_how_to_make_one():
    with pytest.raises(ConfigError, match="ragcache index --corpus"):
        from_options()


def test_options_are_checked_like_the_file():
    with pytest.raises(ConfigError, match="top_k must be at least 1"):
        from_options("--index", "i", "--top-k", "0")
    with pytest.raises(ConfigError, match="grace_seconds must be a finite number"):
        from_options("--index", "i", "--grace-seconds", "nan")
    with pytest.raises(ConfigError, match="not a size"):
        from_options("--index", "i", "--device-cache", "lots")


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        (4096, 4096),
        ("10B", 10),
        ("2GiB", 2 << 30),
        ("2G", 2 << 30),
        ("2GB", 2 * 10**9),
        ("1.5 MiB", 3 << 19),
        (" 512m ", 512 << 20),
        ("3kB", 3000),
        ("1T", 1 << 40),
        ("1tb", 10**12),
    ],
)
def test_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "G", "2Q", "-1", "1e9", "1.GiB", "1,5G", "0x10", "nan", "1G 2"])
def test_what_is_no_size(text):
    with pytest.raises(ConfigError, match="not a size"):
        parse_size(text)


def test_each_setting_has_a_kind():
    assert {option_kind(name) for name in NAMES} == {Path, str, int, bool, float, tuple}


def test_a_disk_cache_is_a_folder_and_a_size(tmp_path):
    disk = from_options("--index", "i", "--disk-cache", "/a:b/kv:1.5GiB").disk
    assert disk == DiskCache(Path("/a:b/kv"), 3 << 29)
    assert from_options("--index", "i", "--disk-cache", "kv:1GiB", "--disk-cache-replace").disk == DiskCache(
        Path("kv"), 1 << 30, replace=True
    )
    with pytest.raises(ConfigError, match="disk_cache_replace has no use without a disk cache"):
        from_options("--index", "i", "--disk-cache-replace")
    assert ServeConfig(index=Path("i")).disk is None
    beside = load(tmp_path, 'index = "i"\ndisk_cache = "kv:20MiB"\n').disk
    assert beside == DiskCache(tmp_path / "kv", 20 << 20)
    for wrong in ("/var/cache/kv", ":1GiB", "/var/cache/kv:", "/var/cache/kv:much"):
        with pytest.raises(ConfigError, match=r"PATH:SIZE|not a size"):
            from_options("--index", "i", "--disk-cache", wrong)


@pytest.mark.parametrize("tier", [("--host-cache", "1GiB"), ("--disk-cache", "kv:1GiB")])
def test_tiers_without_a_cache_make_no_sense(tier):
    with pytest.raises(ConfigError, match="no use where no KV is kept"):
        from_options("--index", "i", "--no-cache", *tier)
