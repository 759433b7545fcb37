"""ServeConfig: every setting of `ragcache serve` and `open_service`, from options and a TOML file, checked once."""

from __future__ import annotations

import dataclasses
import ipaddress
import json
import math
import re
import tomllib
from collections.abc import Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ragcache.console.log import FORMATS, LEVELS
from ragcache.engine.cores import MOST_THREADS
from ragcache.errors import ConfigError
from ragcache.policy import POLICIES, PolicyChoice, policy_factory
from ragcache.reuse.arrangement import ORDERS
from ragcache.service.settings import ServiceSettings
from ragcache.sizes import DiskCache, parse_size
from retrieval.user_path import user_path

ENGINES = ("torch", "vllm")
KV_STORE_DTYPES = ("device", "float16")
SPECULATIONS = ("off", "dynamic")


def _option(default: Any, text: str, **more: Any) -> Any:
    return dataclasses.field(default=default, metadata={"help": text, **more})


@dataclass(frozen=True, slots=True)
class ServeConfig:
    """Settings of a server. Each is an option `--like-this`, a key `like_this` of the TOML file, and a keyword argument
    of `open_service`. Sizes are bytes. Raises ConfigError, which names the setting that cannot be used."""

    index: Path = _option(Path(), "faiss.idx of a folder written by `ragcache index`", required=True)
    model: str = _option("default", "folder of a model, GGUF file or Hugging Face id")
    top_k: int = _option(2, "documents for a question that does not ask for another number")
    order: str = _option(
        "retrieval",
        "order of the documents in a prompt: retrieval, the best first, or tree, by what is cached: KV is exact, but "
        "the prompt is another one",
        one_of=ORDERS,
    )
    max_doc_tokens: int = _option(1024, "cut longer documents to this many tokens", least=16)
    max_question_tokens: int = _option(512, "refuse questions of more tokens", least=1)
    max_tokens: int = _option(128, "longest answer in tokens; a question may ask for a shorter one")
    device_cache: int = _option(2 * 2**30, "device memory for KV, cached and in use, such as 2GiB", size=True)
    host_cache: int = _option(0, "host memory for KV that left the device, such as 8GiB (0: none)", size=True)
    disk_cache: str = _option(
        "", "folder and size of a disk cache, which outlives the server, such as /var/cache/kv:100GiB", form="PATH:SIZE"
    )
    disk_cache_replace: bool = _option(
        False,
        "remove at the start what other weights, dtypes or layouts have left in the disk cache; without it, that stays "
        "until its room is needed",
    )
    kv_store_dtype: str = _option(
        "device",
        "how host and disk store KV: device (the device's dtype, exact) or float16 (half the size of float32, rounded)",
        one_of=KV_STORE_DTYPES,
    )
    cache: bool = _option(True, "keep the KV of documents between requests")
    share_in_flight: bool = _option(
        True, "wait for the KV of documents that another request is computing, instead of computing it again"
    )
    policy: PolicyChoice = _option(
        "pgdsf", f"which KV is evicted first: {', '.join(POLICIES)}, or module:Class for your own", form="NAME"
    )
    admission: str = _option(
        "always",
        "always: new KV always stays; competes: only where the policy prefers it to the KV that it would displace "
        "(then memory for one request is kept free of idle KV)",
    )
    engine: str = _option(
        "torch", "what computes: torch, in this process, or vllm, where it is installed", one_of=ENGINES
    )
    vllm_options: str = _option(
        "",
        'options of vLLM as a JSON object, such as {"tensor_parallel_size": 2}; see `vllm serve --help`, with _ for -',
        form="JSON",
    )
    host: str = _option("127.0.0.1", "address to listen on")
    port: int = _option(8000, "port to listen on (0: any free one)", least=0, most=65535)
    threads: int = _option(
        0,
        "threads that the engine computes with on a CPU (0: one for each core that it may use)",
        least=0,
        most=MOST_THREADS,
    )
    profile: str = _option(
        "auto",
        "prefill times that the policy weighs by: a file of `ragcache profile`, or auto: what was measured on this "
        "machine with this model, else an estimate",
    )
    prefill_chunk: int = _option(512, "compute at most this many prompt tokens in one step")
    max_batch: int = _option(8, "requests that the engine works on at a time")
    max_prefill_batch: int = _option(4, "stop speculating once this many prompts await prefill")
    speculate: str = _option(
        "off",
        "dynamic: prefill the documents that a search has found so far, while it goes on and max_prefill_batch allows; "
        "or off",
        one_of=SPECULATIONS,
    )
    max_waiting: int = _option(64, "requests that may wait; further ones are refused (429)")
    reorder_window: int = _option(
        32, "a request may be overtaken by this many later ones that have more in the cache (0: order of arrival)"
    )
    log_level: str = _option(
        "info", f"least level of what is logged: {', '.join(LEVELS)}; info has a line for each request", one_of=LEVELS
    )
    log_format: str = _option("text", "lines of the log: text, or json: one object a line", one_of=FORMATS)
    grace_seconds: float = _option(30.0, "time for running answers to finish after SIGTERM", least=0)

    header_seconds: float = _option(
        15.0, "close a connection that has not sent a request's header within this time", above=0
    )
    body_seconds: float = _option(
        30.0,
        "refuse (408) a body that takes longer than this; also for clients that do not take their answers",
        above=0,
    )
    keep_alive_seconds: float = _option(
        75.0, "close a connection that sends no further request; behind a proxy, more than the proxy's own", above=0
    )
    max_connections: int = _option(
        0,
        "open connections; where a further one comes, that is closed which waits longest for its client (0: as many as "
        "the process can open files)",
        least=0,
    )
    cors_origin: tuple[str, ...] = _option(
        (),
        "let scripts of pages from this origin ask, such as http://localhost:5173, or * for all; may be repeated",
        form="ORIGIN",
    )

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value, least, most = getattr(self, field.name), field.metadata.get("least"), field.metadata.get("most")
            if isinstance(value, float) and not math.isfinite(value):
                raise ConfigError(f"{field.name} must be a finite number, not {value}")
            one_of = field.metadata.get("one_of")
            if one_of is not None and value not in one_of:
                raise ConfigError(f"{field.name} is one of {', '.join(one_of)}, not {value!r}")
            if least is not None and value < least:
                raise ConfigError(f"{field.name} must be at least {least}, not {value}")
            if most is not None and value > most:
                raise ConfigError(f"{field.name} must be at most {most}, not {value}")
            if "above" in field.metadata and value <= field.metadata["above"]:
                raise ConfigError(f"{field.name} must be above {field.metadata['above']}, not {value}")
        for name in ("model", "profile"):  # each may be a path, and is refused here rather than amid the loading
            user_path(getattr(self, name), name, ConfigError)
        object.__setattr__(self, "cors_origin", tuple(_origin(text) for text in self.cors_origin))
        _ = self.service  # checks the others
        if self.vllm and self.engine != "vllm":
            raise ConfigError("vllm_options have no use without --engine vllm")
        if self.engine == "vllm" and self.kv_store_dtype != "device":
            raise ConfigError("vLLM's KV moves in whole blocks: leave out --kv-store-dtype")
        if self.engine == "vllm" and not isinstance(self.policy, str):  # another process makes it
            raise ConfigError(f"with --engine vllm, name the policy as module:Class, not {self.policy!r}")
        if self.disk_cache_replace and not self.disk_cache:
            raise ConfigError("disk_cache_replace has no use without a disk cache: add --disk-cache PATH:SIZE")

    @property
    def service(self) -> ServiceSettings:
        """The settings of the service, whichever engine computes."""
        return ServiceSettings.of(
            self,
            disk_cache=self.disk,
            policy=policy_factory(self.policy),
            keeps=self.cache,
            speculate=self.speculate == "dynamic",
        )

    @property
    def disk(self) -> DiskCache | None:
        """Folder and bytes of the disk cache, or None for no disk cache."""
        if not self.disk_cache:
            return None
        return dataclasses.replace(DiskCache.parse(self.disk_cache), replace=self.disk_cache_replace)

    @property
    def vllm(self) -> dict[str, Any]:
        """`vllm_options`, parsed: arguments of vLLM's engine by name."""
        try:
            options = json.loads(self.vllm_options or "{}")
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"vllm_options is not valid JSON: {error}") from error
        if not isinstance(options, dict):
            raise ConfigError(f"vllm_options must be a JSON object, not {self.vllm_options!r}")
        return options

    @classmethod
    def load(cls, file: Path | None, options: Mapping[str, Any]) -> ServeConfig:
        """Settings of the TOML `file`, overridden by `options` (those that are not None).

        A size may be a text such as "2GiB", a path a text. Paths of the file are relative to its folder. Raises
        ConfigError for a file that cannot be read, an unknown or missing setting, or a value of the wrong type.
        """
        return cls.of(read_toml(file), file, options)

    @classmethod
    def of(cls, in_file: Mapping[str, Any], file: Path | None, options: Mapping[str, Any]) -> ServeConfig:
        """The same as `load`, where `read_toml` has read `in_file` from the file."""
        given = {name: value for name, value in options.items() if value is not None}
        settings = ({} if file is None else _resolved(in_file, file, given.keys())) | given
        if unknown := sorted(settings.keys() - _FIELDS.keys()):
            raise ConfigError(f"unknown setting {unknown[0]!r}; known are {', '.join(_FIELDS)}")
        if "index" not in settings:
            raise ConfigError("no index: pass --index DIR/faiss.idx, made by `ragcache index --corpus … --out DIR`")
        where = "" if file is None else f" (settings of {file} and the command line)"
        return cls(**{name: _coerce(name, value, where) for name, value in settings.items()})


_DEFAULT_PORTS = {"http": 80, "https": 443}  # which browsers leave out
_FIELDS = {field.name: field for field in dataclasses.fields(ServeConfig)}
_KINDS = {
    "Path": Path,
    "str": str,
    "PolicyChoice": str,
    "int": int,
    "bool": bool,
    "float": float,
    "tuple[str, ...]": tuple,
}


def option_kind(name: str) -> type:
    """The Python type that a setting has when it is written as an option or in a file."""
    return _KINDS[str(_FIELDS[name].type)]


def _coerce(name: str, value: Any, where: str) -> Any:
    kind = option_kind(name)
    if _FIELDS[name].metadata.get("size"):
        return parse_size(value, name)
    for text in value if isinstance(value, list | tuple) else [value]:
        if isinstance(text, str) and "\0" in text:  # which no path, host or name has, and few libraries take
            raise ConfigError(f"{name} must be without NUL characters, not {text!r}{where}")
    if name == "policy" and callable(value):
        return value
    if kind is Path and isinstance(value, str | Path):
        return user_path(value, name, ConfigError)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            return math.inf if value > 0 else -math.inf  # which is refused as such
    if kind is tuple and isinstance(value, list | tuple) and all(isinstance(each, str) for each in value):
        return tuple(value)
    if kind is tuple:
        raise ConfigError(f"{name} must be a list of texts, not {value!r}{where}")
    if type(value) is not kind:
        wanted = "str" if kind is Path else kind.__name__
        raise ConfigError(f"{name} must be of type {wanted}, not {value!r}{where}")
    return value


def _origin(text: str) -> str:
    """An origin as browsers send it. Raises ConfigError for a text that none sends, and which would allow nothing."""
    if text in ("*", "null"):
        return text
    try:
        parts = urlsplit(text.lower())
        port = parts.port
        host = _host(parts.hostname or "")
    except ValueError:  # of the brackets, the port or the address
        host = ""
    # urlsplit passes over line breaks and more, and an empty part after ? or #
    if not host or not re.fullmatch(r"[a-z][a-z0-9+.-]*://[a-z0-9._:\[\]-]+", text.lower()):
        raise ConfigError(
            f"cors_origin {text!r} is not an origin: write *, or scheme://host:port without a path, such as "
            "http://localhost:5173"
        )
    shown = "" if port in (None, _DEFAULT_PORTS.get(parts.scheme)) else f":{port}"
    return f"{parts.scheme}://{host}{shown}"


def _host(host: str) -> str:
    """A host as browsers write it: addresses in their shortest form. Raises ValueError for an address that is none."""
    if ":" in host:
        return f"[{ipaddress.IPv6Address(host).compressed}]"
    if host.rpartition(".")[2].isdigit():
        return str(ipaddress.IPv4Address(host))
    return host


def read_toml(file: Path | None) -> dict[str, Any]:
    """What a file says, with _ for - in names, and not checked; nothing for None. ConfigError if it cannot be read."""
    if file is None:
        return {}
    try:
        settings = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"cannot read {file}: {error.strerror or error}; --config takes the path of a file of settings in TOML"
        ) from error
    except (ValueError, RecursionError) as error:  # also of the encoding, and of a number of 5,000 digits
        raise ConfigError(f"{file} is not valid TOML: {error}") from error
    named: dict[str, Any] = {}
    for written, value in settings.items():
        name = written.replace("-", "_")
        if name in named:
            raise ConfigError(f"{file}: {name} is there twice, with - and with _: leave one out")
        named[name] = value
    return named


def _resolved(in_file: Mapping[str, Any], file: Path, given: Set[str]) -> dict[str, Any]:
    """The settings of a file but those that are `given` elsewhere. Relative paths begin at the file's folder.

    Raises ConfigError for a setting that there is not."""
    if unknown := sorted(in_file.keys() - _FIELDS.keys()):
        raise ConfigError(f"{file}: unknown setting {unknown[0]!r}; known are {', '.join(_FIELDS)}")
    settings = {name: value for name, value in in_file.items() if name not in given}
    if isinstance(index := settings.get("index"), str):
        settings["index"] = str(file.parent / user_path(index, "index", ConfigError))  # an absolute path stays as it is
    if isinstance(disk := settings.get("disk_cache"), str) and disk:
        cache = DiskCache.parse(disk)
        settings["disk_cache"] = f"{file.parent / cache.folder}:{disk.rpartition(':')[2]}"
    for name in ("model", "profile"):
        if not isinstance(written := settings.get(name), str):
            continue
        path = file.parent / user_path(written, name, ConfigError)
        if path.exists():  # a name without such a file may be a model hub's
            settings[name] = str(path)
    return settings
