"""User path: a path as a user wrote it, with `~` for a home folder, and why it cannot be one."""

import os
from pathlib import Path

LONGEST_NAME, LONGEST_PATH = 255, 4095  # bytes, of Linux and its file systems: NAME_MAX, and PATH_MAX without its end


def user_path(written: str | Path, name: str, refusal: type[Exception]) -> Path:
    """The path, with a leading `~` or `~user` replaced.

    Raises `refusal`, which names the setting `name`, for a text that can be no path: with a NUL character, too long, or
    beginning with `~` where that is no user's home folder.
    """
    if "\0" in str(written):
        raise refusal(f"{name} is {str(written)!r}, with a NUL character, which no path has: leave it out")
    try:
        path = Path(written).expanduser()
    except RuntimeError as error:
        raise refusal(
            f"{name} is {str(written)!r}, which begins with no user's home folder: write the path from / on"
        ) from error
    longest = max((len(os.fsencode(part)) for part in path.parts), default=0)
    if longest > LONGEST_NAME:
        raise refusal(f"{name} has a part of {longest} bytes, but files have names of at most {LONGEST_NAME}")
    if (length := len(os.fsencode(path))) > LONGEST_PATH:
        raise refusal(f"{name} has {length} bytes, but a path has at most {LONGEST_PATH}")
    return path
