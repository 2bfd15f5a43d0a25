"""`python -m gristmill` is the command `gristmill`."""

from gristmill.cli import main

main()
