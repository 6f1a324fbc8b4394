"""Rows that a Python function gives. It is run only where the recipe says `allow_code: true`."""

from __future__ import annotations

import ast
import importlib
import importlib.machinery
import os
import sys
from collections.abc import AsyncIterable, Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path

from pydantic import JsonValue

from hfkit.artifact import file_sha256
from hfkit.data.ledger import Ledger, RowFault
from hfkit.data.sources.batch import Located
from hfkit.data.sources.files import shown
from hfkit.data.sources.naming import short_hash
from hfkit.data.sources.plain_values import plain_row
from hfkit.errors import RequestError
from hfkit.recipe import CallableSource

NOT_A_MAPPING = "not a mapping"

_ASYNCHRONOUS = "is asynchronous; let a plain function (def, not async def) yield the rows"
_STANDARD_OUTPUT, _STANDARD_ERROR = 1, 2
_END = object()
_ASSUMED_BYTES = 1024


def function_name(source: CallableSource) -> str:
    """What the places of the function's rows begin with: `package.module:function`, and where it is called with
    arguments, what tells these from others, such as `package.module:function:3f29ab`."""
    return f"{source.callable}:{short_hash(source.arguments)}" if source.arguments else source.callable


def function_rows(source: CallableSource, ledger: Ledger) -> Iterator[Located]:
    """The rows that the function gives, called with the recipe's arguments. Modules of the working directory can be
    named.

    Raises:
        RequestError: the function cannot be imported or called, gives nothing that can be walked through, or raises.
    """
    name = source.callable
    with _working_directory_importable():
        function = _imported(name)
        with _foreign(name, f"when it was called{_with(source)}"):
            given = function(**source.arguments)
        if isinstance(given, Awaitable | AsyncIterable):
            if isinstance(given, Coroutine):
                # Else Python would complain that nobody waited for it.
                given.close()
            raise RequestError(f"{name}: {_ASYNCHRONOUS}")
        if not isinstance(given, Iterable) or isinstance(given, str | bytes | Mapping):
            kind = type(given).__name__
            raise RequestError(f"{name}: gives a value of the type {kind}; let it yield rows, as mappings")
        number = 0
        with _foreign(name, "when its rows were asked for"):
            rows = iter(given)
        places = function_name(source)
        while True:
            place = f"{places}#{number}"
            with _foreign(place, "before the function gave this row"):
                row = next(rows, _END)
            if row is _END:
                return
            number += 1
            try:
                if not isinstance(row, Mapping):
                    raise RowFault(NOT_A_MAPPING, f"of the type {type(row).__name__}; a row maps columns to values")
                with _foreign(place, "when its columns were read"):
                    columns = dict(row)
                plain = plain_row({_column(key): value for key, value in columns.items()})
            except RowFault as fault:
                ledger.drop(fault.reason, place, fault.detail)
                continue
            yield plain, place, _ASSUMED_BYTES


def function_identity(source: CallableSource) -> JsonValue:
    """The hash of the file that the function stands in, which is found without running any of it."""
    path = _module_file(source.callable)
    identity: dict[str, JsonValue] = {
        "callable": source.callable,
        "sha256": None if path is None else file_sha256(path),
    }
    # Where rows have other names than before, they are prepared again.
    return {**identity, "rows": function_name(source)} if source.arguments else identity


def check_function(source: CallableSource) -> str:
    """Where the function stands. Nothing of it is run.

    Raises:
        RequestError: there is no such module, it is no valid Python, or nothing in it has the function's name.
    """
    path = _module_file(source.callable)
    function = source.callable.partition(":")[2]
    if path is None or path.suffix != ".py":
        return f"{source.callable} will be called"
    try:
        tree = ast.parse(path.read_bytes(), filename=str(path))
    except (OSError, SyntaxError, ValueError) as error:
        line = f":{error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
        raise RequestError(f"{source.callable}: {shown(path)}{line}: cannot be read as Python: {error}") from error
    asynchronous = [node for node in ast.walk(tree) if isinstance(node, ast.AsyncFunctionDef)]
    names = {node.name for node in asynchronous}
    names |= {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    names |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    names |= {alias.asname or alias.name for node in imports for alias in node.names}
    if function not in names and "*" not in names:
        raise RequestError(f"{source.callable}: {shown(path)} has nothing named {function}")
    # A decorator may make a plain function of it.
    if any(node.name == function and node in tree.body and not node.decorator_list for node in asynchronous):
        raise RequestError(f"{source.callable}: {_ASYNCHRONOUS}")
    return f"{source.callable} stands in {shown(path)} and will be called"


@contextmanager
def _working_directory_importable() -> Iterator[None]:
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        yield
    finally:
        if here in sys.path:
            sys.path.remove(here)


@contextmanager
def _foreign(place: str, when: str) -> Iterator[None]:
    """Within runs code that is not ours: whatever it raises becomes a RequestError, and whatever it prints goes to
    standard error, since standard output belongs to a verb's result.

    Nobody knows what somebody else's code raises. Neither sys.exit in it nor a GeneratorExit may end the run as if it
    were done; only the user's own interruption passes through.
    """
    with _output_aside():
        try:
            yield
        except (KeyboardInterrupt, RequestError):
            raise
        except BaseException as error:
            raise RequestError(f"{place}: {_in_words(error)}, {when}") from error


@contextmanager
def _output_aside() -> Iterator[None]:
    """Within: standard output is standard error, for Python, for libraries in C and for other programs alike."""
    ours = sys.stdout
    if ours is not None:
        ours.flush()
    try:
        saved = os.dup(_STANDARD_OUTPUT)
    except OSError:
        # It was closed before we were started.
        yield
        return
    try:
        # Where standard error is closed, what is printed still stays out of Python's standard output.
        with suppress(OSError):
            os.dup2(_STANDARD_ERROR, _STANDARD_OUTPUT)
        with redirect_stdout(sys.stderr):
            yield
    finally:
        # What was written through another name for it must be out before it is itself again.
        if ours is not None:
            ours.flush()
        os.dup2(saved, _STANDARD_OUTPUT)
        os.close(saved)


def _imported(name: str) -> Callable[..., object]:
    module_name, _, function_name = name.partition(":")
    # A module written since the last look would not be found otherwise.
    importlib.invalidate_caches()
    with _foreign(name, f"when the module {module_name} was imported"):
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            where = _where_looked(module_name, error.name)
            raise RequestError(f"{name}: there is no module {error.name}{where}") from error
    if function_name not in vars(module):
        raise RequestError(f"{name}: the module {module_name} has no function {function_name}")
    function: object = vars(module)[function_name]
    if not callable(function):
        raise RequestError(f"{name}: is of the type {type(function).__name__}, not a function")
    return function


def _module_file(name: str) -> Path | None:
    """The file of the function's module; None where it has none of its own. Imports nothing.

    Raises:
        RequestError: there is no such module.
    """
    module = name.partition(":")[0]
    places: list[str] | None = [str(Path.cwd()), *sys.path]
    spec = None
    parts = module.split(".")
    for depth in range(1, len(parts) + 1):
        full = ".".join(parts[:depth])
        spec = None if places is None else importlib.machinery.PathFinder.find_spec(full, places)
        if spec is None:
            if depth == 1 and full in sys.builtin_module_names:
                return None
            raise RequestError(f"{name}: there is no module {full}{_where_looked(module, full)}")
        places = None if spec.submodule_search_locations is None else list(spec.submodule_search_locations)
    return Path(spec.origin) if spec is not None and spec.origin and Path(spec.origin).is_file() else None


def _where_looked(wanted: str, missing: str | None) -> str:
    if missing is None or not f"{wanted}.".startswith(f"{missing}."):
        return f", which {wanted} imports"
    return "; modules are looked for in the working directory and among the installed packages"


def _in_words(error: BaseException) -> str:
    said = (str(error).strip() or "without a word").splitlines()[0]
    return f"{type(error).__name__}: {said}"


def _with(source: CallableSource) -> str:
    return f" with {', '.join(source.arguments)}" if source.arguments else ""


def _column(key: object) -> str:
    if not isinstance(key, str):
        raise RowFault("a column whose name is no text", f"{key!r:.100}")
    return key
