"""HTTP assembly: the server of a service, as the settings have it."""

from __future__ import annotations

import socket

from ragcache.cli.config import ServeConfig
from ragcache.service.service import RagService
from server.app import create_app
from server.connection import Patience
from server.run import HttpServer


def http_server(service: RagService, config: ServeConfig, bound: socket.socket) -> HttpServer:
    """Listens on the bound socket. Raises ConfigError if another process, which had bound its address too, does so."""
    return HttpServer(
        create_app(service),
        bound,
        grace_seconds=config.grace_seconds,
        patience=Patience(config.header_seconds, config.body_seconds, config.keep_alive_seconds),
        max_connections=config.max_connections,
        cors_origins=config.cors_origin,
    )
