"""Logs: every line knows its run, item, task, attempt and worker, and no line holds a secret.

`bind` puts names into the context of the running coroutine: every line that is logged below it bears them. Code logs
with `logging.getLogger("gristmill.ROOM")`; `set_up` decides once per process how lines look: coloured for a terminal,
one JSON object a line otherwise. The file of a worker is turned over at 10 MB, and five older ones are kept.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import re
import sys
import threading
from collections.abc import Iterator, Mapping, MutableMapping
from contextvars import ContextVar
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, TextIO

LEVELS = ("debug", "info", "warning", "error", "critical")
MOST = 10_000_000  # bytes of a file before it is turned over
KEPT = 5  # older files: NAME.log.1 is the youngest
HIDDEN = "[secret]"
SHORTEST = 6  # characters; what is shorter is in too many words to be hidden by its value

_bound: ContextVar[Mapping[str, Any]] = ContextVar("gristmill_log", default=MappingProxyType({}))
_secrets: set[str] = set()
_pattern: list[re.Pattern[str]] = []
_lock = threading.Lock()

_SECRET_NAME = re.compile(
    r".*(API_?KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL|ACCESS_KEY|PRIVATE_KEY).*", re.IGNORECASE
)
_KNOWN_FORMS = (
    r"(?<=://)[^\s/@:'\"]*:[^\s/@'\"]+(?=@)",  # user:password of an address
    r"(?i:(?<=bearer )|(?<=basic ))[A-Za-z0-9._~+/=-]{8,}",
    r"\bsk-[A-Za-z0-9_-]{12,}", r"\bAIza[A-Za-z0-9_-]{20,}", r"\bgh[pousr]_[A-Za-z0-9]{20,}", r"\bAKIA[A-Z0-9]{16}\b",
    r"\bxox[abpr]-[A-Za-z0-9-]{10,}",
    r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*",  # a JSON web token
)  # fmt: skip
_NAMING = re.compile(r"(?i)key|passw|secret|token|authoriz")  # cheap, and nearly always false
# name=value and "name": "value", where the name says that the value is a secret
_NAMED = re.compile(
    r"""(?ix)(?P<name> ["']? [a-z0-9_-]*
        (?:api_?-?key|password|passwd|secret|access_?-?token|auth_?-?token|authorization) ["']? \s* [:=] \s* )
        (?P<value> "(?:[^"\\]|\\.)*" | '(?:[^'\\]|\\.)*'
        | (?! env:|file:|secret:|\[secret\] | (?:none|null|true|false|(?-i:NAME)) (?![^\s"',;&})\]]*\w) )
          [^\s"',;&})\]]{4,} )"""
)


def bind(**names: Any) -> None:
    """Adds names to every line that this coroutine, and what it starts from here on, logs."""
    _bound.set({**_bound.get(), **names})


@contextlib.contextmanager
def bound(**names: Any) -> Iterator[None]:
    """As `bind`, until the block ends."""
    token = _bound.set({**_bound.get(), **names})
    try:
        yield
    finally:
        _bound.reset(token)


def hide(secret: str | None) -> None:
    """From here on this text is in no line, whoever logs it. Texts of less than six characters are not hidden."""
    if secret and len(secret) >= SHORTEST and secret not in _secrets:
        with _lock:
            _secrets.update(_forms(secret))
            _pattern.clear()


def _forms(secret: str) -> set[str]:
    """As it is, as Python shows it inside of something else, and both as JSON."""
    plain = {secret, repr(secret)[1:-1]}
    return plain | {json.dumps(form, ensure_ascii=narrow)[1:-1] for form in plain for narrow in (True, False)}


def redact(text: str) -> str:
    """The text without secrets: those that `hide` was told, values of variables with such names, and known forms."""
    if not _pattern:
        with _lock:
            known = sorted(_secrets | _of_environment(), key=len, reverse=True)
            _pattern[:] = [re.compile("|".join([*map(re.escape, known), *_KNOWN_FORMS]))]
    text = _pattern[0].sub(HIDDEN, text)
    return _NAMED.sub(_hide_value, text) if _NAMING.search(text) else text


def _hide_value(found: re.Match[str]) -> str:
    value = found["value"]
    quote = value[0] if value[0] in "\"'" else ""
    inside = value.strip(quote) if quote else value
    if inside.startswith(("env:", "file:", "secret:")) or inside in ("", HIDDEN):
        return found[0]
    return f"{found['name']}{quote}{HIDDEN}{quote}"


def _of_environment() -> set[str]:
    values = (value for name, value in os.environ.items() if _SECRET_NAME.fullmatch(name))
    return {form for value in values if len(value) >= SHORTEST and value[0] != "/" for form in _forms(value)}


def set_up(
    stream: TextIO | None = None, *, level: str = "info", file: Path | None = None, as_json: bool | None = None
) -> None:  # fmt: skip
    """How this process logs, from here on: to `stream` (standard error), or to `file`, then with everything else that
    the process prints. `as_json`: None is JSON unless it goes to a terminal. Raises `ValueError` for an unknown level.
    """
    import structlog

    if level not in LEVELS:
        raise ValueError(f"{level!r} is no level of logs: {', '.join(LEVELS)}")
    chosen = stream or sys.stderr
    plain = file is None and chosen.isatty() if as_json is None else not as_json
    colours = plain and file is None and chosen.isatty() and not os.environ.get("NO_COLOR")
    renderer: Any = structlog.processors.JSONRenderer(ensure_ascii=False, default=str)
    last: list[Any] = [structlog.processors.format_exc_info, _redact_values, renderer]
    if plain:
        last = [structlog.dev.ConsoleRenderer(colors=colours, exception_formatter=structlog.dev.plain_traceback)]
    shared: list[Any] = [_add_bound, structlog.stdlib.add_log_level, structlog.stdlib.add_logger_name,
              structlog.processors.TimeStamper(fmt="iso", utc=True)]  # fmt: skip
    formatter = _Redacting(
        foreign_pre_chain=[structlog.stdlib.ExtraAdder(), *shared],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
    )
    handler: logging.Handler = logging.StreamHandler(chosen) if file is None else _TurnedOver(file)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    for former in root.handlers[:]:
        root.removeHandler(former)
        former.close()
    root.addHandler(handler)
    root.setLevel(level.upper())
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(), wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )  # fmt: skip
    logging.captureWarnings(True)
    sys.excepthook = _told_uncaught


def set_up_when_used(**arguments: Any) -> None:
    """As `set_up`, at the first line: for processes that hardly ever log and ought to start quickly."""
    logging.getLogger().addHandler(_First(arguments))
    logging.getLogger().setLevel(logging.INFO)


class _First(logging.Handler):
    def __init__(self, arguments: dict[str, Any]) -> None:
        super().__init__()
        self._arguments = arguments

    def emit(self, record: logging.LogRecord) -> None:
        set_up(**self._arguments)
        logging.getLogger().handle(record)


def _add_bound(_logger: Any, _name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for name, value in _bound.get().items():
        if value is not None:
            event.setdefault(name, value)
    return event


def _redact_values(_logger: Any, _name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Before they are written as JSON, which hides quotes behind backslashes."""
    for name, value in event.items():
        if isinstance(value, str):
            event[name] = redact(value)
    return event


def _told_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    logging.getLogger("gristmill").critical("%s: %s", kind.__name__, error, exc_info=(kind, error, trace))


class _Redacting(logging.Formatter):
    """structlog's formatter at the root, and behind it the one place that every line passes."""

    def __init__(self, **arguments: Any) -> None:
        import structlog

        super().__init__()
        self._inner = structlog.stdlib.ProcessorFormatter(**arguments)

    def format(self, record: logging.LogRecord) -> str:
        return redact(self._inner.format(record))


class _TurnedOver(logging.StreamHandler[TextIO]):
    """A file that is turned over when it is full, together with what is printed: by tracebacks, libraries, the kernel.

    Several processes may write to the same one: one of them turns it over, the others notice.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._file = self._open()
        super().__init__(self._file)

    def _open(self) -> TextIO:
        file = self._path.open("a", encoding="utf-8", errors="backslashreplace")
        for standard in (1, 2):
            os.dup2(file.fileno(), standard)
        return file

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(OSError):
            self._turn()
        super().emit(record)

    def _turn(self) -> None:
        mine = os.fstat(self._file.fileno())
        if mine.st_size < MOST and self._is_there(mine):
            return
        with contextlib.ExitStack() as stack:
            folder = os.open(self._path.parent, os.O_RDONLY)
            stack.callback(os.close, folder)
            fcntl.flock(folder, fcntl.LOCK_EX)
            if mine.st_size >= MOST and self._is_there(mine):  # nobody has done it meanwhile
                for number in range(KEPT - 1, 0, -1):
                    with contextlib.suppress(FileNotFoundError):
                        os.replace(f"{self._path}.{number}", f"{self._path}.{number + 1}")
                os.replace(self._path, f"{self._path}.1")
            former, self._file = self._file, self._open()
            self.setStream(self._file)
            former.close()

    def _is_there(self, mine: os.stat_result) -> bool:
        try:
            there = self._path.stat()
        except FileNotFoundError:
            return False
        return (there.st_dev, there.st_ino) == (mine.st_dev, mine.st_ino)
