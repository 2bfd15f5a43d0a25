"""gristmill models: which models there are under names of one's own, and whether they answer."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gristmill.cli import options
from gristmill.cli.options import print_json, say
from gristmill.errors import GristmillError, UsageError

if TYPE_CHECKING:
    from gristmill.bindings import NamedModel
    from gristmill.llm.model import Model


@click.group(name="models", invoke_without_command=True)
@click.option("--providers", is_flag=True, help="List the providers instead: address, and where the key is looked for.")
@options.home
@options.as_json
@click.pass_context
def command(context: click.Context, providers: bool, home: Path | None, as_json: bool) -> None:
    """Lists the models of gristmill.toml and of the database."""
    if context.invoked_subcommand is not None:
        return
    if providers:
        _providers(as_json)
    else:
        options.call(_list(home, as_json))


def _providers(as_json: bool) -> None:
    from gristmill.llm.providers import PROVIDERS

    if as_json:
        rows = [{"name": name, "base_url": one.base_url, "key": one.key or None} for name, one in PROVIDERS.items()]
        print_json("providers", providers=rows)
        return
    for name, one in PROVIDERS.items():
        click.echo(f"{name:<18} {one.base_url:<52} {one.key or 'no key'}")


async def _list(home: Path | None, as_json: bool) -> int:
    async with options.open_app(home, workers=0) as app:
        found = await app.models.named()
    if as_json:
        print_json("models", models=[_document(one, found) for one in found])
        return 0
    for one in found:
        hidden = "  (not used: gristmill.toml has one of that name)" if _is_hidden(one, found) else ""
        where = f" at {one.settings.base_url}" if one.settings.base_url else ""
        key = one.settings.reference or "no key"
        click.echo(f"{one.name:<18} {one.settings.provider}:{one.settings.model}{where}  {key}  {one.origin}{hidden}")
    if not found:
        say("there is none yet; add one: gristmill models add fast --provider openai --model gpt-4.1-mini")
        say('without a name works too: --model openai:NAME, anthropic:NAME ... ("gristmill models --providers")')
    return 0


def _is_hidden(one: NamedModel, found: list[NamedModel]) -> bool:
    return one.origin == "database" and any(o.name == one.name and o.origin == "settings" for o in found)


def _document(one: NamedModel, found: list[NamedModel]) -> dict[str, Any]:
    return {
        "name": one.name, "origin": one.origin, "used": not _is_hidden(one, found), "key": one.settings.reference,
        **{name: value for name, value in one.settings.model_dump(mode="json").items() if name != "key"},
        "changed_at": one.changed_at and one.changed_at.isoformat(),
    }  # fmt: skip


@command.command()
@click.argument("name")
@click.option("--provider", required=True, help="One of: gristmill models --providers.")
@click.option("--model", required=True, help="The model's name at its provider.")
@click.option("--base-url", help="Another address than the provider's own.")
@click.option("--key", help="Where the key is: env:NAME, file:/path or secret:NAME. Never the key.")
@click.option("--parameter", "parameters", multiple=True, metavar="NAME=JSON", help="Sent with every call.")
@click.option("--header", "headers", multiple=True, metavar="NAME=TEXT", help="Sent with every call; never a secret.")
@click.option("--limit", help="The quota that its calls count under (default: provider and place of the key).")
@click.option("--timeout", type=float, help="Seconds for a whole call (default: 300).")
@click.option("--first-byte", type=float, help="Seconds for the start of the answer (default: 120).")
@click.option("--idle", type=float, help="Seconds for a pause within the answer (default: 60).")
@click.option("--stream", is_flag=True, default=None, help="Ask for the answer in pieces.")
@click.option("--structured", help="Form in which schemas are asked for: json_schema, json_object, tool or text.")
@click.option("--batch", is_flag=True, default=None, help="Ask in batches: within a day, for less money.")
@click.option(
    "--batch-wait", type=float, help="A batch goes off when no call joins it for so many seconds (default: 15)."
)
@click.option("--batch-size", type=int, help="Calls that fill a batch (default: 5000).")
@click.option("--batch-again", type=click.Choice(["batch", "single"]), help="How failed calls are asked again.")
@click.option("--replace", is_flag=True, help="Replace the model of that name.")
@options.home
@options.as_json
def add(name: str, replace: bool, home: Path | None, as_json: bool, **given: Any) -> None:
    """Keeps a model in the database, for all who use it."""
    options.call(_add(name, replace, home, as_json, given))


async def _add(name: str, replace: bool, home: Path | None, as_json: bool, given: dict[str, Any]) -> int:
    from gristmill.llm import stored_bindings

    told = {name: value for name, value in given.items() if value is not None and value != ()}
    told["parameters"] = dict(_pair(text, json_value=True) for text in given["parameters"])
    told["headers"] = dict(_pair(text) for text in given["headers"])
    settings = stored_bindings.checked(told)
    async with options.open_app(home, workers=0) as app:
        await stored_bindings.add(app.pool, name, settings, app.settings.project, replace=replace)
        hidden = name in app.settings.models
    if as_json:
        print_json("model", name=name, used=not hidden, **settings.model_dump(mode="json"))
        return 0
    say(f"{name}: {settings.provider}:{settings.model}, {settings.reference or 'no key'}")
    say("gristmill.toml has one of that name, which goes first" if hidden else f"try it: gristmill models test {name}")
    return 0


def _pair(text: str, *, json_value: bool = False) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise UsageError(f'"{name[:60]}" is not NAME=VALUE', code="U385")
    if not json_value:
        return name, value
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value  # a word without quotes is text


@command.command()
@click.argument("name")
@options.home
@options.as_json
def remove(name: str, home: Path | None, as_json: bool) -> None:
    """Takes a model out of the database; answers that it gave stay in the ledger."""
    options.call(_remove(name, home, as_json))


async def _remove(name: str, home: Path | None, as_json: bool) -> int:
    from gristmill.llm import stored_bindings

    async with options.open_app(home, workers=0) as app:
        await stored_bindings.remove(app.pool, name, app.settings.project)
    if as_json:
        print_json("model_removed", name=name)
    else:
        say(f"{name} is gone")
    return 0


@command.command()
@click.argument("name")
@options.home
@options.as_json
def test(name: str, home: Path | None, as_json: bool) -> None:
    """Asks a model one short question now (costs a few tokens) and says what came of it.

    NAME is a name of your own or a provider and a model. The answer is not kept in the ledger.
    """
    options.call(_test(name, home, as_json))


async def _test(name: str, home: Path | None, as_json: bool) -> int:
    async with options.open_app(home, workers=0) as app:
        try:
            model = await app.models.open(name, ledger=False)
            try:
                told, error = await try_model(model), None
            finally:
                await model.close()
        except GristmillError as problem:
            told, error = {}, problem
    if as_json:
        problem_told = {"code": error.code, "message": error.message, "hint": error.hint} if error else None
        print_json("model_test", name=name, ok=error is None, **told, error=problem_told)
    elif error is None:
        tokens = f"{told['tokens']['input']} tokens in, {told['tokens']['output']} out"
        say(f"{name}: {told['answer']}  ({told['model']}, {told['milliseconds']} ms, {tokens})")
    else:
        from gristmill.cli import show

        show(error)
    return 1 if error else 0


async def try_model(model: Model) -> dict[str, Any]:
    """One short question, or one short text for a model of vectors: what it said, how fast, with how many tokens.

    Raises what the model raises.
    """
    from gristmill.llm.model import Message, Request
    from gristmill.llm.structured import Asker

    started = time.perf_counter()
    if not model.binding.paid:
        return {"model": model.binding.model, "answer": "it needs no server", "milliseconds": 0,
                "tokens": {"input": 0, "output": 0}}  # fmt: skip
    if _gives_vectors(model):
        answer = await model.complete(Request((Message("user", "OK"),)))
        said = f"a vector of {len(_vectors(answer.raw)[0])} numbers"
    else:
        said, answer = await Asker(model, reasks=0).answer("Say OK.")
    return {
        "model": answer.model, "answer": said[:200], "milliseconds": round((time.perf_counter() - started) * 1000),
        "tokens": {"input": answer.usage.input, "output": answer.usage.output, "reasoning": answer.usage.reasoning},
    }  # fmt: skip


def _gives_vectors(model: Model) -> bool:
    from gristmill.llm.embeddings import OpenAIEmbeddings

    return isinstance(model, OpenAIEmbeddings)


def _vectors(raw: bytes) -> list[list[float]]:
    from gristmill.llm.embeddings import vectors

    return vectors(json.loads(raw))
