"""Choice: a policy by its name, by `module:Class`, or given as a class or a function that makes one."""

from __future__ import annotations

import functools
import importlib
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ragcache.errors import ConfigError
from ragcache.policy.guard import GuardedPolicy
from ragcache.policy.protocol import Policy

PolicyChoice = str | Callable[..., Policy]
METHODS = tuple(name for name, value in vars(Policy).items() if inspect.isfunction(value) and not name.startswith("_"))
_TRIAL_CAPACITY = 1000  # tokens, of the one that is made to see whether it can be


def choose(
    choice: PolicyChoice, known: Mapping[str, Callable[[int], Policy]], more: Sequence[str]
) -> Callable[[int], Policy]:
    """Makes the chosen policy for a tier of a capacity in tokens. `more` are names that the caller knows besides.

    ConfigError, in one line, for a name that is not known and for what does not make a policy. What goes wrong in one
    that is not of this package is a PolicyError: see GuardedPolicy.
    """
    if not isinstance(choice, str):
        return _checked(policy_name(choice), choice)
    if choice in known:
        return known[choice]
    module, colon, attribute = choice.partition(":")
    if not (colon and module and attribute):
        raise ConfigError(
            f"there is no policy {choice!r}; known are {', '.join((*known, *more))}, and module:Class for your own"
        )
    return _checked(choice, _imported(choice, module, attribute))


def policy_name(choice: PolicyChoice) -> str:
    """The choice as reports write it: the name, or `module:Class` of what was given."""
    if isinstance(choice, str):
        return choice
    return f"{getattr(choice, '__module__', '?')}:{getattr(choice, '__qualname__', repr(choice))}"


def _imported(choice: str, module: str, attribute: str) -> Any:
    here = str(Path.cwd())
    if here not in sys.path:  # a console script has its own folder there instead
        sys.path.append(here)  # last, so that no file there hides a package
    try:
        holder = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise ConfigError(f"policy {choice}: importing {module} failed: {error}") from error
        raise ConfigError(f"policy {choice}: there is no module {error.name!r}, here or installed") from error
    except Exception as error:  # whatever a user's module does when it is imported
        raise ConfigError(f"policy {choice}: importing {module} failed: {_in_one_line(error)}") from error
    try:
        return functools.reduce(getattr, attribute.split("."), holder)
    except AttributeError as error:
        raise ConfigError(f"policy {choice}: {holder.__name__} ({holder.__file__}) has no {attribute!r}") from error


def _checked(name: str, maker: Any) -> Callable[[int], Policy]:
    """The maker as a function of the capacity, once it has made a policy that has every method."""
    if not callable(maker):
        raise ConfigError(f"policy {name}: this is not a class or function that makes a policy: {maker!r}")
    if isinstance(maker, type):
        _check_methods(name, maker)
    try:
        signature = inspect.signature(maker)
        takes_capacity = _binds(signature, _TRIAL_CAPACITY)
        if not takes_capacity and not _binds(signature):
            raise ConfigError(f"policy {name}: it is called with the capacity in tokens, or with nothing")
        make: Callable[[int], Policy] = maker if takes_capacity else lambda _: maker()
        made = make(_TRIAL_CAPACITY)
    except ConfigError:
        raise
    except Exception as error:  # whatever a user's constructor does
        raise ConfigError(f"policy {name}: it cannot be made: {_in_one_line(error)}") from error
    _check_methods(name, type(made))
    return functools.partial(_made, name, make)


def _made(name: str, make: Callable[[int], Policy], capacity: int) -> Policy:
    """A policy of this package as it is, since every call of a request passes through it; any other guarded."""
    policy = make(capacity)
    if type(policy).__module__.startswith(f"{__package__}."):
        return policy
    return GuardedPolicy(name, policy)


def _binds(signature: inspect.Signature, *arguments: int) -> bool:
    try:
        signature.bind(*arguments)
    except TypeError:
        return False
    return True


def _check_methods(name: str, kind: type) -> None:
    # one that is inherited from the protocol does nothing
    lacking = [each for each in METHODS if getattr(kind, each, None) in (None, getattr(Policy, each))]
    if lacking:
        methods = ", ".join(f"{each}()" for each in lacking)
        raise ConfigError(f"policy {name}: {kind.__name__} is not a policy, it lacks {methods}: see ragcache.Policy")


def _in_one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
