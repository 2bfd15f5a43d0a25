"""The command line. Each command lives in a file of its own and is imported when it is asked for."""

from __future__ import annotations

import atexit
import gc
import importlib
import sys
from typing import Any

import click

from gristmill.errors import DatabaseProblem, EnvironmentProblem, GristmillError, UsageError

# command -> (module, one line for the list of commands)
COMMANDS = {
    "run": ("run", "Make a dataset from files and folders, or go on with it."),
    "watch": ("watch", "Show how a run is doing, live or once."),
    "why": ("why", "Why something waits or failed, or where a row came from."),
    "retry": ("retry", "Try everything that failed once more."),
    "stop": ("stop", "Pause a run, or cancel it."),
    "pause": ("pause:pause", "Let nothing more of a run, or of one input, begin."),
    "resume": ("pause:resume", "Go on after a pause."),
    "cancel": ("pause:cancel", "End a run, or one input of it, for good."),
    "export": ("export", "Write a run's dataset to a file."),
    "review": ("review", "What waits for people: next, accept, edit, reject, assign, stats."),
    "label-studio": ("label_studio", "Annotations to and from Label Studio, and as COCO, YOLO, CoNLL and more."),
    "labels": ("labels", "Print the label tree of a run."),
    "annotators": ("annotators", "Count what annotators said; compare them with each other and with people."),
    "search": ("search", "Find passages of a run by meaning and by words."),
    "vacuum": ("vacuum", "Tidy search indexes up."),
    "verify": ("vacuum:verify", "Check whether search indexes are sound."),
    "up": ("up", "Start supervisor, workers and API, and keep them alive."),
    "down": ("down", "Stop them in order."),
    "worker": ("worker", "The workers of the crew: list, start, stop, pause, logs; or run one here."),
    "workers": ("workers", "Who works where; pause, resume or stop workers."),
    "pools": ("pools", "What waits and runs in each pool; limits over all workers, pauses."),
    "calls": ("calls", "What models were asked and what it cost; export, import, prune."),
    "budget": ("budget", "What may be spent by a run, a day, the project; and what was."),
    "workflow": ("workflow", "Which workflows there are; copy one, change it, check it."),
    "schedule": ("schedule", "Start runs at certain times, each tick exactly once."),
    "limits": ("limits", "What providers allow, how much of it is used, and changing it."),
    "locks": ("locks", "Who holds a lock and since when, and taking it away."),
    "api": ("api", "Serve the API and the page."),
    "token": ("api:token", "Who may use the API: add, rotate, remove tokens."),
    "metrics": ("metrics", "Print the numbers of all workers in Prometheus form, or serve them."),
    "models": ("models", "Models under names of your own: list, add, remove, test."),
    "packs": ("packs", "Actions: programs of your own as steps of workflows; list, check, install, try."),
    "doctor": ("doctor", "Check database, models, disk and settings, and say what to do."),
    "hooks": ("hooks", "Tell somebody when something happens: webhook, e-mail, task."),
    "db": ("database", "The database: status, url, psql, migrate, stop."),
}

EPILOG = """\b
Exit codes:
  0    done
  1    finished, some pieces failed
  2    wrong usage
  3    environment: database, model, key, disk
  4    stopped on purpose with work left
  130  interrupted; nothing is lost, the same command goes on
"""


class Commands(click.Group):
    """Imports a command only when it is called: `gristmill --help` stays quick."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(f"gristmill.cli.{module}"), attribute or "command")
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError:
            import difflib

            near = difflib.get_close_matches(args[0], COMMANDS, 1)
            if near:
                raise click.UsageError(f'No such command "{args[0]}". Did you mean "{near[0]}"?', ctx) from None
            raise

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=Commands, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="gristmill", prog_name="gristmill")
def gristmill() -> None:
    """Documents go in, training data comes out, and nothing that was paid for is lost on the way."""


def exit_code(error: GristmillError) -> int:
    """The exit code of an error: 2 for usage, 3 for the environment, 1 for the rest."""
    if isinstance(error, UsageError):
        return 2
    return 3 if isinstance(error, EnvironmentProblem) else 1


def show(error: GristmillError) -> None:
    """What, what to do, and what is safe; to standard error."""
    from gristmill.logs import redact

    click.echo(f"error[{error.code}]: {redact(error.message)}", err=True)
    if error.hint:
        click.echo(f"  try   {redact(error.hint)}", err=True)
    if error.safe:
        click.echo(f"  safe  {error.safe}", err=True)


def main() -> None:
    """Entry point. Errors of ours are shown without a traceback; GRISTMILL_DEBUG=1 shows it."""
    import os

    # What is imported lives as long as the process: to look through it for garbage, while it is imported and once more
    # at the end, was a third of what a short command took. `options.open_app` sets the first one back.
    gc.set_threshold(200_000, 10, 10)
    atexit.register(gc.freeze)
    try:
        gristmill(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except click.Abort:
        sys.exit(130)
    except GristmillError as error:
        if os.environ.get("GRISTMILL_DEBUG"):
            raise
        show(error)
        sys.exit(exit_code(error))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(1)
    except Exception as error:
        problem = _environment_problem(error)
        if problem is None or os.environ.get("GRISTMILL_DEBUG"):
            raise
        show(problem)
        sys.exit(3)


def _environment_problem(error: Exception) -> EnvironmentProblem | None:
    """What the database or the machine refused in the middle of a command; None for anything else: that is a bug."""
    import asyncpg

    from gristmill.db.moving import moved_away

    if moved := moved_away(error):
        return moved
    safe = "what was finished is kept; the same command goes on"
    if isinstance(error, asyncpg.PostgresError | asyncpg.InterfaceError | asyncpg.InternalClientError):
        what = f"the database did not do what it was asked: {type(error).__name__}: {error}"
        return DatabaseProblem(what, code="D140", hint="look with: gristmill doctor", safe=safe)
    if isinstance(error, OSError):
        return EnvironmentProblem(f"{type(error).__name__}: {error}", code="E130", safe=safe)
    return None
