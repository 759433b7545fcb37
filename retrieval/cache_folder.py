"""Cache folder: where things stay that are made once, such as converted models, profiles and compiled kernels."""

import os
from pathlib import Path

from retrieval.errors import RetrievalError


class NoCacheFolder(RetrievalError):
    """There is no folder to keep things in; the message says what to set."""


def cache_folder() -> Path:
    """`$RAGCACHE_HOME`, else `~/.cache/ragcache`. Raises NoCacheFolder where "~" or "~user" leads to no home folder."""
    chosen = os.environ.get("RAGCACHE_HOME")
    try:
        return Path(chosen or "~/.cache/ragcache").expanduser()
    except RuntimeError as error:
        if chosen:
            reason = f"RAGCACHE_HOME is {chosen!r}, which names no user's home folder: set it to the path of a folder"
        else:
            reason = "this user has no home folder: set RAGCACHE_HOME to a folder for models"
        raise NoCacheFolder(reason) from error
