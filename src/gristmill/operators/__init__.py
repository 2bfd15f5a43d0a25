"""The built-in operators: `from gristmill.operators import parse, split`."""

from gristmill.operators.answer import answer
from gristmill.operators.ask import ask
from gristmill.operators.dedup import dedup
from gristmill.operators.parse import parse
from gristmill.operators.split import split

__all__ = ["answer", "ask", "dedup", "parse", "split"]
