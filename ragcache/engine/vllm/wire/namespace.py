"""Namespace: which requests may share KV, as vLLM and the knowledge tree call it.

As in vLLM's own prefix cache, requests of one salt and one adapter share. A service in front has one salt a namespace,
and none for "default".
"""

from __future__ import annotations

DEFAULT = "default"


def salt_of(namespace: str) -> str | None:
    """The salt that vLLM is given for requests of a service's namespace."""
    return None if namespace == DEFAULT else namespace


def namespace_of(salt: str | None, adapter: str | None = None) -> str:
    """The knowledge tree's namespace for requests of that salt and adapter. No two pairs have the same."""
    parts = []
    if salt is not None:
        parts.append(f"salt {_doubled(salt)}")
    if adapter is not None:
        parts.append(f"adapter {_doubled(adapter)}")
    return "; ".join(parts) or DEFAULT


def _doubled(text: str) -> str:
    """With each semicolon twice, so that none is taken for the one between the parts."""
    return text.replace(";", ";;")
