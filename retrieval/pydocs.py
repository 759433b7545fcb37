"""Python documentation: the docstrings on this machine as a corpus, one document per module, class or function."""

import contextlib
import dataclasses
import importlib
import importlib.util
import inspect
import io
import logging
import os
import pkgutil
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType

from retrieval.corpus import Document
from retrieval.errors import CorpusError

STANDARD_LIBRARY = "stdlib"
PACKAGES = (
    STANDARD_LIBRARY,
    "accelerate",
    "faiss",
    "fastapi",
    "gguf",
    "httpx",
    "lmdb",
    "numpy",
    "prometheus_client",
    "psutil",
    "pydantic",
    "safetensors",
    "torch",
    "tqdm",
    "transformers",
    "uvicorn",
)  # what this project installs, and Python itself

LEAST_WORDS = 60  # shorter docstrings name a thing without explaining it

# not imported: they open windows, print, start or patch things, hold no documentation, or are aliases of others
LEFT_OUT = frozenset(
    {
        "antigravity",
        "distutils",  # setuptools may stand in for it
        "encodings",
        "ensurepip",
        "idlelib",
        "lib2to3",
        "ntpath",  # os.path on the other system
        "posixpath",  # os.path on this one
        "pydoc_data",
        "readline",
        "rlcompleter",
        "test",
        "this",
        "tkinter",
        "turtle",
        "turtledemo",
        # numpy
        "numpy.conftest",
        "numpy.core",
        "numpy.distutils",
        "numpy.f2py",
        "numpy.ma.testutils",
        "numpy.matlib",
        "numpy.polynomial.hermite",  # this and the next three repeat the docstrings of numpy.polynomial.chebyshev
        "numpy.polynomial.hermite_e",
        "numpy.polynomial.laguerre",
        "numpy.polynomial.legendre",
        "numpy.typing.mypy_plugin",
        # torch: what users of models do not call, or what is slow or noisy to import
        "torch.ao",
        "torch.backends",
        "torch.contrib",
        "torch.cpp_extension",
        "torch.csrc",
        "torch.distributed",
        "torch.fx.experimental",
        "torch.fx.passes",
        "torch.jit",
        "torch.nn.intrinsic",
        "torch.nn.qat",
        "torch.nn.quantizable",
        "torch.nn.quantized",
        "torch.onnx",
        "torch.package",
        "torch.quantization",
        "torch.testing",
        "torch.utils.bottleneck",
        "torch.utils.hipify",
        "torch.utils.model_dump",
        "torch.utils.tensorboard",
        "torch.utils.viz",
        # transformers: a thousand model classes that share their docstrings, and its inner workings
        "transformers.cli",
        "transformers.commands",
        "transformers.conversion_mapping",
        "transformers.core_model_loading",
        "transformers.distributed",
        "transformers.exporters",
        "transformers.integrations",
        "transformers.kernels",
        "transformers.loss",
        "transformers.modeling_outputs",
        "transformers.models",
        "transformers.monkey_patching",
        "transformers.quantizers",
        "transformers.testing_utils",
        # faiss: compiled variants for kinds of CPUs, all of them visible through `faiss`
        "faiss.contrib",
        "faiss.swigfaiss",
        "faiss.swigfaiss_avx2",
        "faiss.swigfaiss_avx512",
        "faiss.swigfaiss_avx512_spr",
        "faiss.swigfaiss_sve",
        # the old interface of pydantic
        "pydantic.deprecated",
        "pydantic.v1",
        # command lines, tests, and adapters to other programs, which happen to be installed or not
        "accelerate.commands",
        "accelerate.test_utils",
        "gguf.scripts",
        "pydantic.mypy",
        "tqdm.contrib.bells",
        "tqdm.contrib.discord",
        "tqdm.contrib.slack",
        "tqdm.contrib.telegram",
        "tqdm.dask",
        "tqdm.gui",
        "tqdm.keras",
        "tqdm.notebook",
        "tqdm.rich",
    }
)
TEST_NAMES = frozenset({"test", "tests", "testing", "conftest", "setup"})
NOT_FOUND_BY_WALKING = {STANDARD_LIBRARY: ("os.path",)}
ADDRESS = re.compile(r"\bat 0x[0-9a-fA-F]{6,}")


@dataclasses.dataclass(frozen=True, slots=True)
class _Entry:
    """A documented object: its public `name` and its docstring."""

    name: str
    kind: str
    package: str
    text: str
    unlisted: bool = False  # not in the __all__ of its module
    alias: bool = False  # the object's own name is another

    def order(self) -> tuple[int, bool, bool, int, str]:
        """Sorts first the name people use: fewest dots, in __all__, not an alias (numpy.arccos, not acos), shortest."""
        return self.name.count("."), self.unlisted, self.alias, len(self.name), self.name


def collect(packages: Sequence[str] | None = None) -> list[Document]:
    """Documents of the packages' public docstrings, sorted by id.

    "stdlib" is the standard library; None means those of PACKAGES that are installed. A document's id and title are
    the shortest public name of the object, such as `json.dumps`; `extra` has its `kind` (module, class or function)
    and `package`. The result depends only on the installed versions. The modules are imported into this process; those
    that fail to import are left out. Raises CorpusError if a package in `packages` is not installed.
    """
    chosen = [name for name in PACKAGES if _installed(name)] if packages is None else list(dict.fromkeys(packages))
    for name in chosen:
        if not _installed(name):
            raise CorpusError(f"package {name!r} is not installed; install it with pip, or leave it out")
    best: dict[str, _Entry] = {}
    for package in chosen:
        with _undisturbed():
            for entry in _documented(package):
                folded = " ".join(entry.text.split())
                known = best.get(folded)
                if known is None or entry.order() < known.order():
                    best[folded] = entry
    # a module and a function may have the same name: the function, first by kind, is what the name calls
    by_name: dict[str, _Entry] = {}
    for entry in sorted(best.values(), key=lambda entry: (entry.kind, entry.text)):
        by_name.setdefault(entry.name, entry)
    return [
        Document(entry.name, entry.name, entry.text, {"kind": entry.kind, "package": entry.package})
        for _, entry in sorted(by_name.items())
    ]


def _installed(package: str) -> bool:
    if package == STANDARD_LIBRARY:
        return True
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):
        return False


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Import silently, and never a file of the current folder in place of the library's module."""
    path = sys.path[:]
    disabled = logging.root.manager.disable
    sys.path[:] = [entry for entry in path if entry and Path(entry).resolve() != Path.cwd()]
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
        sys.path[:] = path


def _documented(package: str) -> Iterator[_Entry]:
    for module in _modules(package):
        text = _text(module)
        if text:
            yield _Entry(_public(module), "module", package, text)
        yield from _members(module, package)


def _modules(package: str) -> Iterator[ModuleType]:
    roots = sorted(sys.stdlib_module_names) if package == STANDARD_LIBRARY else [package]
    for root in roots:
        yield from _walk(root)
    for name in NOT_FOUND_BY_WALKING.get(package, ()):
        yield sys.modules[name]


def _walk(name: str) -> Iterator[ModuleType]:
    last = name.rpartition(".")[2]
    if last.startswith("_") or last in TEST_NAMES or last.endswith("_test") or name in LEFT_OUT:
        return
    try:
        module = importlib.import_module(name)
    except (Exception, SystemExit):  # for another system, or it needs a package that is not installed
        return
    yield module
    for child in sorted(info.name for info in pkgutil.iter_modules(getattr(module, "__path__", ()))):
        yield from _walk(f"{name}.{child}")


def _members(module: ModuleType, package: str) -> Iterator[_Entry]:
    listed = frozenset(getattr(module, "__all__", ()))
    if hasattr(module, "_class_to_module"):
        return  # a lazy package holds only what was used so far; everything it offers is found where it is defined
    for name in sorted(listed | vars(module).keys()):
        if name.startswith("_"):
            continue
        try:
            member = getattr(module, name)
        except Exception:
            continue
        kind = _kind(member)
        if kind is None or not _belongs(member, module.__name__, package, name in listed):
            continue
        text = _text(member)
        if text:
            alias = getattr(member, "__name__", name) != name
            unlisted = bool(listed) and name not in listed
            yield _Entry(_shortest(_public(module), name, member), kind, package, text, unlisted, alias)


def _public(module: ModuleType) -> str:
    # os.path has the name of the system's implementation
    return "os.path" if module is os.path else module.__name__


def _kind(member: object) -> str | None:
    if inspect.isclass(member):
        return "class"
    if inspect.ismodule(member):
        return None
    # ufuncs and the like are callable instances with their own docstring and name
    own = callable(member) and getattr(member, "__doc__", None) != type(member).__doc__
    if inspect.isroutine(member) or (own and isinstance(getattr(member, "__name__", None), str)):
        return "function"
    return None


def _belongs(member: object, module: str, package: str, listed: bool) -> bool:
    """Whether a module's attribute is part of what the module offers, not something it imported for its own use."""
    home = getattr(member, "__module__", None)
    if not isinstance(home, str):
        return listed
    # objects of C code are in modules such as _sqlite3 and torch._C._linalg
    first, *rest = home.split(".")
    public = ".".join([first.lstrip("_"), *(part for part in rest if not part.startswith("_"))])
    root = public.split(".")[0]
    if package == STANDARD_LIBRARY:
        if listed:
            return root in sys.stdlib_module_names or first in sys.stdlib_module_names
    elif root != package:
        return False
    elif listed:
        return True
    return public == module or public.startswith(f"{module}.") or module.startswith(f"{public}.")


def _shortest(module: str, name: str, member: object) -> str:
    """The member's name in the outermost lazy package that offers this same object, else in the module itself."""
    parts = module.split(".")
    for depth in range(1, len(parts)):
        package = sys.modules.get(".".join(parts[:depth]))
        if name in getattr(package, "_class_to_module", ()) and getattr(package, name, None) is member:
            return ".".join([*parts[:depth], name])
    return f"{module}.{name}"


def _text(member: object) -> str | None:
    doc = getattr(member, "__doc__", None)
    if not isinstance(doc, str):
        return None
    if inspect.isclass(member) and dataclasses.is_dataclass(member) and doc.startswith(f"{member.__name__}("):
        return None  # the signature that dataclasses write where there is no docstring
    text = ADDRESS.sub("at 0x...", inspect.cleandoc(doc)).encode(errors="replace").decode()
    return text if len(text.split()) >= LEAST_WORDS else None
