"""One attempt of an action: how it is told, what its output becomes, and how it fails."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from gristmill.data.kinds import ActionResult, Chunk, Document
from gristmill.errors import (
    ConfigurationError,
    EnvironmentProblem,
    InputError,
    TaskError,
    TransientError,
    UsageError,
    WorkflowError,
)
from gristmill.packs import actions
from gristmill.packs.actions import find_action
from gristmill.testing import MemoryBlobs, perform
from gristmill.workflow import Workflow
from gristmill.workflow_files import read_workflow, write_workflow
from tests.packs.conftest import CHUNK, Load, run

ECHO = "import json, os, sys\nprint(json.dumps({'told': sys.stdin.read(), 'env': dict(os.environ), 'argv': sys.argv}))"
HOSTILE = "$(touch /tmp/x) `id` ; rm -rf / | cat > x & -n --help \n ${IFS} 'quoted' \"double\" \\"
ANY: dict[str, Any] = {"type": "object", "properties": {"a": {}, "b": {"type": "integer", "default": 3}}}


async def kept(error: TaskError, blobs: MemoryBlobs, name: str = "stdout") -> bytes:
    """The raw output that a failure has left."""
    return await blobs.read(error.message.split(f'{name} "')[1][:64])


PRINTED = [
    ("text", '{"a": 1}', '{"a": 1}\n', None),
    ("text", "", "\n", None),
    ("json", '{"a": [1, null]}', "", {"a": [1, None]}),
    ("json", "null", "", None),
    ("json", "[]", "", []),
    ("yaml", "a: [1, yes]\nb: 2020-01-01", "", {"a": [1, "yes"], "b": "2020-01-01"}),
    ("jsonl", '{"a": 1}\n\n{"b": 2}', "", [{"a": 1}, {"b": 2}]),
    ("jsonl", "", "", []),
]


@pytest.mark.parametrize(
    ("runner", "output", "printed", "stdout", "result"),
    [("shell", *one) for one in PRINTED] + [(runner, *one) for runner in ("python", "native") for one in PRINTED[::3]],
)
async def test_text_fills_stdout_and_structure_fills_result_in_every_runner(
    load: Load, runner: str, output: str, printed: str, stdout: str, result: Any
) -> None:
    if runner == "python":
        made = load(f"print({printed!r})", runner=runner, entry="do.py", output=output)
    else:
        made = load(f"#!/bin/sh\ncat <<'END'\n{printed}\nEND\n", runner=runner, output=output)
    found = await run(made)
    assert (found.stdout, found.result, found.exit_code, found.truncated) == (stdout, result, 0, ())


def test_a_result_never_holds_both() -> None:
    with pytest.raises(ValidationError, match="never both"):
        ActionResult(action="a.b", version="1", exit_code=0, stdout="text", result=[])


@pytest.mark.parametrize("delivery", ["stdin", "env", "file"])
async def test_each_delivery_tells_the_same_and_no_value_is_ever_code(load: Load, delivery: str) -> None:
    program = {
        "stdin": "import json, sys\ntold = json.load(sys.stdin)",
        "file": "import json, os, sys\nassert sys.stdin.read() == ''\n"
                "told = json.load(open(os.environ['GRISTMILL_INPUT']))",
        "env": "import json, os, sys\nassert sys.stdin.read() == ''\ne = os.environ\n"
               "told = {'parameters': {'a': e['GRISTMILL_PARAMETER_A'], 'b': json.loads(e['GRISTMILL_PARAMETER_B'])},"
               "'input': {'kind': e['GRISTMILL_INPUT_KIND'], 'body': json.loads(e['GRISTMILL_INPUT'])},"
               "'action': e['GRISTMILL_ACTION'], 'attempt': int(e['GRISTMILL_ATTEMPT']), 'key': e['GRISTMILL_KEY'],"
               "'settings': {'size': int(e['GRISTMILL_SETTING_SIZE'])}, 'files': {}}",
    }[delivery]  # fmt: skip
    settings = {"type": "object", "properties": {"size": {"type": "integer", "default": 1}}}
    made = load(
        f"{program}\nassert len(sys.argv) == 1\nprint(json.dumps(told))", runner="python", entry="do.py", output="json",
        delivery=delivery, parameters=ANY, settings=settings, values={"size": 5},
    )  # fmt: skip
    told = (await run(made, a=HOSTILE)).result
    assert told == {
        "action": made.name, "parameters": {"a": HOSTILE, "b": 3}, "settings": {"size": 5}, "attempt": 1, "key": "test",
        "input": {"kind": "chunk", "body": CHUNK.model_dump(mode="json")}, "files": {},
    }  # fmt: skip


async def test_the_environment_holds_what_is_declared_and_nothing_else(
    load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PASSED", "NOT_PASSED", "SOME_API_KEY", "LD_PRELOAD_NOT", "DATABASE_URL"):
        monkeypatch.setenv(name, "from outside")
    made = load(
        ECHO, runner="python", entry="do.py", output="json", delivery="stdin", environment={"MODE": "quick"},
        inherit=["PASSED", "SOME_API_KEY", "DATABASE_URL", "MISSING"],
    )  # fmt: skip
    found = (await run(made)).result["env"]
    fixed = {"PATH", "LANG", "HOME", "TMPDIR", "GRISTMILL_ACTION", "GRISTMILL_PACK", "GRISTMILL_ATTEMPT",
             "GRISTMILL_KEY", "GRISTMILL_KIN"}  # fmt: skip
    assert set(found) == fixed | {"MODE", "PASSED"}
    assert found["HOME"] != os.environ.get("HOME")
    assert not Path(found["HOME"]).exists()  # the working folder is gone afterwards


async def test_the_working_folder_is_private_empty_and_gone_whatever_was_left_in_it(load: Load) -> None:
    program = """
set -eu
test "$(pwd)" = "$HOME"; test -z "$(ls -A)"; stat -c %a .
mkdir -p a/b; echo x > a/b/c; ln -s / link; chmod 000 a; pwd
"""
    found = await run(load(program))
    mode, place = found.stdout.split()
    assert mode == "700"
    assert not os.path.lexists(place)


async def test_bytes_behind_blobs_are_files_where_an_action_asks_for_them(load: Load) -> None:
    blobs = MemoryBlobs()
    digest = await blobs.write("Mühle".encode())
    document = Document(text_blob=digest, characters=5, media_type="text/plain")
    program = (
        "import json, sys\ntold = json.load(sys.stdin)\nprint(open(told['files']['text_blob'], 'rb').read().decode())"
    )
    made = load(program, runner="python", entry="do.py", delivery="stdin", takes=["document"], input_files=True)
    found = await perform(made.using(), document, blobs=blobs)
    assert found[0].stdout == "Mühle\n"  # type: ignore[attr-defined]


async def test_a_parameter_may_name_a_field_of_the_input(load: Load) -> None:
    parameters = {
        "type": "object", "required": ["number", "line"],
        "properties": {"number": {"type": "integer"}, "line": {"type": "string", "maxLength": 60}, "more": {}},
    }  # fmt: skip
    made = load(ECHO, runner="python", entry="do.py", output="json", delivery="stdin", parameters=parameters)
    found = await run(made, number="${input.ordinal}", line="<${input.text}> ${input.ordinal}", more=["${input.start}"])
    told = json.loads(found.result["told"])["parameters"]
    assert told == {"number": 7, "line": f"<{CHUNK.text}> 7", "more": [0]}
    for number in ("${input.nothing}", "${input.text}"):
        with pytest.raises(InputError) as caught:
            await run(made, number=number, line="x")
        assert caught.value.code == "K208"
    sly = Chunk(text="${input.ordinal} ${input.nothing}")  # what is put in is not looked into again
    [result] = await perform(made.using(number=1, line="${input.text}"), sly)
    assert isinstance(result, ActionResult)
    assert json.loads(result.result["told"])["parameters"]["line"] == sly.text


def test_options_are_checked_against_the_schema_before_anything_runs(load: Load) -> None:
    made = load("true", parameters={"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]})
    assert made.check_options({"a": 1}) == {"a": 1}
    assert made.options_model.model_json_schema()["required"] == ["a"]
    for options in ({}, {"a": "x"}, {"a": 1, "b": 2}):
        with pytest.raises(WorkflowError, match=made.name):
            made.using(**options)
    with pytest.raises(UsageError, match="no operator"):
        find_action("core.nothing")


def test_an_action_is_a_step_like_any_other_and_written_back_as_it_was() -> None:
    text = """
name: words
steps:
- parse
- split
- examples.sentences: {least: 5}
- core.file_write: {path: "${input.ordinal}.txt", text: "${input.text}"}
"""
    flow, _ = read_workflow(text)
    again = Workflow.from_definition(json.loads(json.dumps(flow.definition())))
    assert again.fingerprint() == flow.fingerprint()
    assert read_workflow(write_workflow(flow))[0].fingerprint() == flow.fingerprint()
    with pytest.raises(WorkflowError, match='step "ask" takes'):
        read_workflow(text + "- ask\n")


async def test_what_an_action_makes_may_be_records_of_another_kind(load: Load) -> None:
    program = "import json\nfor n in range(2): print(json.dumps({'text': str(n), 'ordinal': n}))"
    made = load(program, runner="python", entry="do.py", output="jsonl", makes="chunk")
    assert await perform(made, CHUNK) == [Chunk(text="0"), Chunk(text="1", ordinal=1)]
    blobs = MemoryBlobs()
    wrong = load("echo '{\"text\": 1}'", output="json", makes="chunk")
    with pytest.raises(TransientError, match="no chunk: text") as caught:
        await perform(wrong, CHUNK, blobs=blobs)
    assert caught.value.code == "K209"
    assert await kept(caught.value, blobs) == b'{"text": 1}\n'


@pytest.mark.parametrize(
    ("output", "program", "why"),
    [
        ("json", "echo 'not json'", "line 1"),
        ("json", "printf ''", "empty"),
        ("json", "echo '{\"a\": NaN}'", "NaN"),
        ("json", "printf '[%.0s' $(seq 5000)", "nested deeper|line 1"),
        ("json", "printf '[%.0s' $(seq 100); printf ']%.0s' $(seq 100)", "nested deeper"),
        ("json", "head -c 6000 /dev/zero | tr '\\0' 9", "4300 digits"),
        ("json", "head -c 1000 /dev/urandom; printf '\\377'", "not UTF-8"),
        ("jsonl", "echo '{}'; echo '[1]'", "line 2 is no object"),
        ("jsonl", "echo '{}'; echo '{'", "line 2"),
        ("yaml", "printf 'a: &x [1]\\nb: *x\\n'", "aliases"),
        ("yaml", "printf 'a: [1\\nb: 2\\n'", "line 2"),
        ("yaml", "printf 'a: !!python/name:os.system x\\n'", "the tag"),
    ],
)
async def test_unparsable_output_is_a_failed_attempt_with_its_raw_text_kept(
    load: Load, output: str, program: str, why: str
) -> None:
    blobs = MemoryBlobs()
    with pytest.raises(TransientError, match=why) as caught:
        await run(load(program, output=output), blobs)
    assert caught.value.code == "K204"
    if "printf ''" not in program:
        assert await kept(caught.value, blobs)


async def test_a_nul_character_cannot_be_stored_and_fails_with_its_raw_text_kept(load: Load) -> None:
    blobs = MemoryBlobs()
    with pytest.raises(InputError) as caught:
        await run(load("printf '%s' '[\"a\\u0000b\"]'", output="json"), blobs)
    assert caught.value.code == "T602"
    assert await kept(caught.value, blobs) == b'["a\\u0000b"]'
    assert (await run(load("printf 'a\\0b\\377'"))).stdout == "a\ufffdb\ufffd"  # text is made storable


@pytest.mark.parametrize(
    ("program", "code", "again"),
    [
        ("echo one; echo two >&2; exit 3", "K201", True),
        ("echo one; echo two >&2; exit 65", "K210", False),
        ("echo one; echo two >&2; kill -9 $$", "K202", True),
        ("echo one; echo two >&2; exec sleep 60", "K203", True),
    ],
)
async def test_how_a_program_ends_decides_whether_it_is_tried_again(
    load: Load, program: str, code: str, again: bool
) -> None:
    blobs = MemoryBlobs()
    with pytest.raises(TransientError if again else InputError) as caught:
        await run(load(program, timeout=0.5), blobs)
    assert caught.value.code == code
    assert "two" in caught.value.message
    assert await kept(caught.value, blobs) == b"one\n"
    assert await kept(caught.value, blobs, "stderr") == b"two\n"


async def test_a_program_that_cannot_be_started_is_told(load: Load) -> None:
    with pytest.raises(TransientError, match="cannot be started") as caught:
        await run(load("#!/nowhere/interpreter\n", runner="native"))
    assert caught.value.code == "K212"
    with pytest.raises(InputError) as refused:
        await run(load("true", parameters=ANY), a="x" * 200_000)
    assert refused.value.code == "K215"


async def test_a_secret_is_given_by_reference_and_hidden_wherever_it_appears(
    load: Load, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    secret = 'S3cret/"word" & more'
    monkeypatch.setenv("MY_SECRET", secret)
    (tmp_path / "key").write_text("another-secret\n")
    parameters = {"type": "object", "properties": {"token": {"type": "string", "secret": True}, "end": {"default": 0}}}
    settings = {"type": "object", "properties": {"key": {"type": "string", "secret": True}}}
    program = """
import base64, json, sys, urllib.parse
told = json.load(sys.stdin)
token, key = told["parameters"]["token"], told["settings"]["key"]
assert len(token) == 20 and key.startswith("another")
forms = [token, urllib.parse.quote(token, safe=""), base64.b64encode(key.encode()).decode()]
print(json.dumps({"plain": token, key: forms}))
print(token, file=sys.stderr)
sys.exit(told["parameters"]["end"])
"""
    made = load(
        program, runner="python", entry="do.py", output="json", delivery="stdin", parameters=parameters,
        settings=settings, values={"key": f"file:{tmp_path / 'key'}"},
    )  # fmt: skip
    found = await run(made, token="env:MY_SECRET")
    assert found.result["plain"] == "***"
    assert found.stderr == "***\n"
    text = found.model_dump_json()
    assert "S3cret" not in text
    assert "another" not in text
    blobs = MemoryBlobs()
    with pytest.raises(TransientError) as caught:
        await run(made, blobs, token="env:MY_SECRET", end=1)
    everything = (
        caught.value.message.encode() + await kept(caught.value, blobs) + await kept(caught.value, blobs, "stderr")
    )
    assert b"S3cret" not in everything
    assert b"another-secret" not in everything
    with pytest.raises(WorkflowError, match="never the secret"):
        made.using(token=secret)
    for name, value in (("MISSING", None), ("SHORT", "abc")):
        if value:
            monkeypatch.setenv(name, value)
        with pytest.raises(EnvironmentProblem) as missing:
            await run(made, token=f"env:{name}")
        assert missing.value.code == "K211"
        assert "abc" not in missing.value.message.replace("SHORT", "")


def test_settings_that_do_not_fit_their_pack_are_refused(load: Load) -> None:
    settings = {"type": "object", "properties": {"size": {"type": "integer"}}, "required": ["size"]}
    for values in ({"size": "large"}, {"sise": 1}):
        with pytest.raises(ConfigurationError) as caught:
            load("true", settings=settings, values=values)
        assert caught.value.code == "K307"


def test_another_content_or_another_setting_is_another_version(load: Load) -> None:
    settings = {"type": "object", "properties": {"size": {"type": "integer", "default": 1}}}
    versions = {
        load(program, ref="versioned", settings=settings, values=values).version
        for program in ("echo 1", "echo 2") for values in (None, {"size": 2})
    }  # fmt: skip
    assert len(versions) == 4
    assert load("echo 1", ref="versioned", settings=settings).version in versions
    assert "versioned" in actions.known_packs()
