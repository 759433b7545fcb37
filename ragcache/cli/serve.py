"""`ragcache serve`: questions answered over HTTP until a signal."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ragcache.cli.config import ServeConfig, option_kind, read_toml
from ragcache.console.log import configured
from ragcache.errors import RagCacheError
from retrieval.errors import RetrievalError

log = logging.getLogger(__name__)

INTERRUPTED = 130  # exit status, as of a program that SIGINT ended: 128 + 2


def add_options(parser: argparse.ArgumentParser) -> None:
    """An option for each setting, None where it is not given, so that the file's value shows through."""
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE.toml",
        help="file of settings, by the names of the options below with _ for -; an option that is given wins",
    )
    for field in dataclasses.fields(ServeConfig):
        kind = option_kind(field.name)
        flag = f"--{field.name.replace('_', '-')}"
        text = field.metadata["help"]
        if kind is bool:
            parser.add_argument(
                flag, action=argparse.BooleanOptionalAction, default=None, help=f"{text} ({_switch(field)})"
            )
            continue
        if kind is tuple:
            parser.add_argument(
                flag, action="append", default=None, metavar=field.metadata["form"], help=f"{text} (default: none)"
            )
            continue
        default = "" if field.metadata.get("required") else f" (default: {_readable(field)})"
        size = field.metadata.get("size")
        metavar = "SIZE" if size else {int: "N", float: "SECONDS", Path: "FILE"}.get(kind, "NAME")
        metavar = field.metadata.get("form", metavar)
        parser.add_argument(flag, type=str if size or kind is Path else kind, metavar=metavar, help=text + default)


def config_of(options: argparse.Namespace, in_file: Mapping[str, Any]) -> ServeConfig:
    """The settings of a command line and, as `read_toml` has them, of the file that it names. Raises ConfigError."""
    names = [field.name for field in dataclasses.fields(ServeConfig)]
    return ServeConfig.of(in_file, options.config, {name: getattr(options, name) for name in names})


def run(options: argparse.Namespace) -> int:
    """Serves until SIGTERM or SIGINT. Raises ConfigError, ModelError or RetrievalError for what cannot be served."""
    in_file: dict[str, Any] = {}
    try:
        in_file = read_toml(options.config)
        config = config_of(options, in_file)
    except RagCacheError as error:
        if (options.log_format or in_file.get("log_format")) != "json":
            raise
        with configured("info", "json"):
            log.critical("%s", error)
        return 1
    with configured(config.log_level, config.log_format):
        try:
            _serve(config)
        except (RagCacheError, RetrievalError, OSError) as error:
            if config.log_format == "text":  # the command's line for people says it
                raise
            log.critical("%s", error)
            return 1
        except (KeyboardInterrupt, SystemExit) as end:  # SIGINT or SIGTERM before it served
            log.info("stopped before it was ready")
            if config.log_format == "json" and isinstance(end, KeyboardInterrupt):
                raise SystemExit(INTERRUPTED) from None  # without the command's word
            raise
    return 0


def _serve(config: ServeConfig) -> None:
    from server.crowd import raise_file_limit
    from server.run import bind
    from server.signals import Hangups

    hangups = Hangups()  # from now on: the index may be replaced while it is loaded
    raise_file_limit()
    with bind(config.host, config.port) as bound:  # before the seconds of loading: a busy port is reported at once
        log.info("loading %s and model %s ...", config.index, config.model)  # before torch is imported, for seconds
        from ragcache.cli.assembly.engines import assembly_of

        assemble = assembly_of(config.engine)
        service = assemble(config, log.info)
        try:
            from ragcache.cli.assembly.http import http_server
            from server.run import run, url_of

            log.info(
                "serving %d documents with %s on %s (%s); Ctrl-C ends",
                service.corpus_size,
                service.model_name,
                url_of(bound),
                service.cache.describe(),
            )
            server = http_server(service, config, bound)
            finish = functools.partial(service.finish_writing, config.grace_seconds)
            run(server, finish=finish, reload=service.reload, hangups=hangups)
        finally:
            service.close()
    log.info("stopped")


def _switch(field: dataclasses.Field[Any]) -> str:
    return f"default: {'on' if field.default else 'off'}"


def _readable(field: dataclasses.Field[Any]) -> str:
    default: Any = field.default
    return f"{default >> 30}GiB" if field.metadata.get("size") and default else str(default) or "none"
