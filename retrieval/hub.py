"""Hub: a model of the Hugging Face hub as a local folder, from its cache or the network, or an error in seconds."""

import threading
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from retrieval.errors import RetrievalError

PATIENCE_SECONDS = 3.0  # for the hub's first answer, the look-up of its name included
SMALL_FILES = ["*.json", "*/config.json", "*.txt", "*.model", "*.jinja"]  # what a model needs beside its weights
WEIGHTS = ("model*.safetensors", "pytorch_model*.bin")  # the first kind that a model has


class HubError(RetrievalError):
    """The model is neither in the local cache nor can it be had from the hub."""


def downloaded(name: str) -> Path:
    """The folder of the model that the hub calls `name`. HubError, after a few seconds at most, if there is none.

    A hub that does not answer is asked once and not again: what the cache has is used then.
    """
    reason = _refusal(name)
    try:
        folder = _snapshot(name, WEIGHTS[0], offline=reason is not None)
        if not any(folder.glob(WEIGHTS[0])):
            folder = _snapshot(name, WEIGHTS[1], offline=reason is not None)
    except (HFValidationError, HfHubHTTPError, OSError, ValueError) as error:
        raise HubError(reason or _first_line(error)) from error
    if reason is not None and not any(list(folder.glob(pattern)) for pattern in WEIGHTS):
        raise HubError(reason)
    return folder


def weight_files(folder: Path) -> Sequence[Path]:
    """The files of a model's weights, by name."""
    return next((files for pattern in WEIGHTS if (files := sorted(folder.glob(pattern)))), [])


def _snapshot(name: str, weights: str, *, offline: bool) -> Path:
    return Path(snapshot_download(name, allow_patterns=[*SMALL_FILES, weights], local_files_only=offline))


def _refusal(name: str) -> str | None:
    """Why the hub does not give this model; None if it does. It has PATIENCE_SECONDS."""
    if constants.is_offline_mode():
        return "HF_HUB_OFFLINE is set, and the local cache does not have it"
    answers: list[str | None] = []

    def ask() -> None:
        try:
            # longer than it is waited for, so that what is said of a hub that does not answer is said below
            HfApi().model_info(name, timeout=2 * PATIENCE_SECONDS)
            answers.append(None)
        except Exception as error:  # of the network, in any library below
            answers.append(_first_line(error))

    # a thread, for the system's look-up of a name takes as long as it likes
    asking = threading.Thread(target=ask, name="hub", daemon=True)
    asking.start()
    asking.join(PATIENCE_SECONDS)
    return answers[0] if answers else f"{constants.ENDPOINT} did not answer within {PATIENCE_SECONDS:g} s"


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0] or type(error).__name__
