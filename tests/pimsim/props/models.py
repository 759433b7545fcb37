"""Targets for tests: functions of a point's fields, which workers import by this module's name."""

import os
import signal
import time
from typing import Any


def plane(values: dict[str, Any]) -> dict[str, Any]:
    """Three parts of x, one of y, none of z, in a result with names, lists and nothing in it."""
    total = 3 * values["x"] + values["y"] + 0 * values.get("z", 0)
    return {"total": total, "parts": {"x": 3 * values["x"], "x_us": 1.5}, "kind": "plane", "y": -1, "many": [1, 2]}


def uneven(values: dict[str, Any]) -> dict[str, Any]:
    """Points that fail, and whose results have other columns and types than those of others."""
    if values["x"] % 5 == 3:
        raise ZeroDivisionError("a point at which the model has a defect")
    if values["x"] % 2:
        return {"value": values["x"], "odd": True}
    return {"value": values["x"] / 4, "even": "yes", "none": None}


def slow(values: dict[str, Any]) -> dict[str, Any]:
    """Takes its time, so that a sweep can be killed in its middle."""
    time.sleep(values["seconds"])
    return {"square": values["x"] ** 2}


def deadly(values: dict[str, Any]) -> dict[str, Any]:
    """A point kills its process, as want of memory does."""
    if values["x"] == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return {"x_again": values["x"]}
