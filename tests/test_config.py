"""Settings from every source: who wins, where each value stands, and how all that is wrong is told at once."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gristmill.config import HANDED_ON, Settings, load_settings
from gristmill.errors import ConfigurationError
from gristmill.settings_files import lines_of


def refused(folder: Path, text: str, **environment: str) -> ConfigurationError:
    (folder / "gristmill.toml").write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        load_settings(folder, {"HOME": str(folder), **environment})
    return caught.value


def test_everything_that_is_wrong_is_told_at_once_with_its_line_value_range_and_remedy(tmp_path: Path) -> None:
    error = refused(
        tmp_path,
        'lease = 1\nbete = 3\n\nlog_level = "loud"\n[models.fast]\nprovider = "openai"\nmodel = "m"\ntimeout = 0\n'
        '[workers.a]\ncuont = 2\n[workers.b]\npools = {parse = 0}\n',
        GRISTMILL_BEAT="often",
    )  # fmt: skip
    file = tmp_path / "gristmill.toml"
    assert error.code == "U202"
    assert sorted(line.split(":")[0].split(" (")[0] for line in error.problems) == [
        'setting beat = "often"', "setting lease = 1", 'setting log_level = "loud"', "setting models.fast.timeout = 0",
        "setting workers.b.pools.parse = 0", 'unknown setting "bete"', 'unknown setting "workers.a.cuont"',
    ]  # fmt: skip
    text = error.message
    for words in (
        f"({file}:1)", "from 2 to 600", f'"bete" ({file}:2): did you mean "beat"?', f"({file}:4)", f"({file}:8)",
        f'"workers.a.cuont" ({file}:10): did you mean "count"?', f"({file}:12)", "(environment GRISTMILL_BEAT)",
        "a worker whose host vanished",
    ):  # fmt: skip
        assert words in text, (words, text)


def test_one_wrong_setting_is_one_line_and_its_meaning_is_the_hint(tmp_path: Path) -> None:
    error = refused(tmp_path, "lease = 1000\n")
    assert error.message.startswith("setting lease = 1000: should be less than or equal to 600")
    assert error.hint.startswith("a worker whose host vanished")
    assert refused(tmp_path, "lesae = 3\n").code == "U201"
    assert refused(tmp_path, "lease = \n").code == "U203"


@pytest.mark.parametrize(
    "text",
    [
        'smtp_password = "hunter2-secret"', '[models.x]\nprovider = "openai"\nmodel = "m"\nkey = "hunter2-secret"',
        '[models.x]\nprovider = "openai"\nmodel = "m"\napi_key = "hunter2-secret"', 'api_key = "hunter2-secret"',
        '[models.x]\nprovider = "openai"\nmodel = "m"\nheaders = {x = ["hunter2-secret"]}',
        'blobs = "https://me:hunter2-secret@store"',
    ],
)  # fmt: skip
def test_no_error_of_settings_shows_a_secret(tmp_path: Path, text: str) -> None:
    error = refused(tmp_path, text)
    assert "hunter2" not in f"{error.message} {error.hint} {error!r} {error.problems}"


def test_sources_win_in_their_order_and_each_value_knows_its_own(tmp_path: Path) -> None:
    own = tmp_path / "home" / ".config" / "gristmill" / "config.toml"
    own.parent.mkdir(parents=True)
    own.write_text('lease = 20\nlanguage = "tr"\npoll = 2\n')
    project = tmp_path / "project"
    (project / "below").mkdir(parents=True)
    (project / "pyproject.toml").write_text(
        '[project]\nname = "x"\n\n[tool.gristmill]\nlease = 30\npoll = 3\nprobe = 1\n'
    )
    (project / "gristmill.toml").write_text("lease = 40\nprobe = 2\n")
    environment = {"HOME": str(tmp_path / "home"), "GRISTMILL_PROBE": "3", "GRISTMILL_POOLS": '{parse = 2, "*" = 3}'}
    loaded = load_settings(project / "below", environment, beat=2.0)
    values = loaded.values
    assert (values.language, values.poll, values.lease, values.probe, values.beat) == ("tr", 3, 40, 3, 2)
    assert values.pools == {"parse": 2, "*": 3}
    assert {name: loaded.origins[name] for name in ("language", "poll", "lease", "probe", "beat", "backoff")} == {
        "language": f"{own}:2", "poll": f"{project / 'pyproject.toml'}:6", "lease": f"{project / 'gristmill.toml'}:1",
        "probe": "environment GRISTMILL_PROBE", "beat": "argument", "backoff": "default",
    }  # fmt: skip
    assert loaded.files == (own, project / "pyproject.toml", project / "gristmill.toml")


def test_a_pyproject_of_others_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[tool.ruff]\nlease = "?"\n')
    assert load_settings(tmp_path, {"HOME": str(tmp_path)}).files == ()


def test_workers_are_a_number_for_run_and_tables_for_up(tmp_path: Path) -> None:
    (tmp_path / "gristmill.toml").write_text(
        '[workers.parse]\ncount = 3\n[workers.m]\nannotator = "miller"\nmodels = ["fast"]\nenabled = false\n'
    )
    loaded = load_settings(tmp_path, {"HOME": str(tmp_path)})
    assert (loaded.values.workers, loaded.values.crew["parse"].count, loaded.values.crew["m"].enabled) == (2, 3, False)
    assert loaded.origins["crew.parse.count"].endswith("gristmill.toml:2")
    handed = loaded.values.model_dump_json(exclude={"workers"})
    assert load_settings(tmp_path, {"HOME": str(tmp_path), HANDED_ON: handed}).values.crew == loaded.values.crew
    (tmp_path / "gristmill.toml").write_text("workers = 4\n")
    assert load_settings(tmp_path, {"HOME": str(tmp_path)}).values.workers == 4


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[workers.a]\nannotator = "x"\n[workers.b]\nannotator = "x"\n', 'annotator "x"'),
        ('[workers.a]\nannotator = "x"\ncount = 2\n', "an annotator is one worker"),
        ("[workers.api]\ncount = 1\n", "the place of the API"), ("[crew.a]\ncount = 1\n", "crew"),
        ('[workers."a b"]\n', "workers.a b"), ("[workers.a]\npools = {}\n", "pools"),
    ],
)  # fmt: skip
def test_workers_that_cannot_be_are_refused(tmp_path: Path, text: str, words: str) -> None:
    assert words in refused(tmp_path, text).message


WORD = st.text("abcXYZ019-_", min_size=1, max_size=6)
NAME = WORD | st.text("aé .#[]=", min_size=1, max_size=5).map(lambda text: f'"{text}"')
VALUE = st.sampled_from(
    [
        "1",
        "true",
        '"a # b = ]"',
        "'x[\"'",
        '"""\na = 1\n[t]\n"""',
        "'''\n#'''",
        "[\n1, # ]\n2]",
        '{a = 1, b = "}"}',
        "1979-05-27",
    ]
)


@given(
    st.lists(
        st.tuples(st.lists(NAME, min_size=1, max_size=2), st.lists(st.tuples(NAME, VALUE), max_size=4)), max_size=4
    )
)
def test_the_line_of_every_key_is_the_one_on_which_it_stands(
    tables: list[tuple[list[str], list[tuple[str, str]]]],
) -> None:
    text = ""
    for path, keys in tables:
        text += f"[{' . '.join(path)}] # [no]\n\n" + "".join(f"{name} = {value}  # x = 1\n" for name, value in keys)
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return  # a name that stands twice
    found = lines_of(text)
    lines = text.split("\n")

    def check(at: dict[str, Any], path: tuple[str, ...]) -> None:
        for name, value in at.items():
            line = found.get((*path, name))
            if line is not None:
                assert name in lines[line - 1], (path, name, line, text)
            assert line is not None or isinstance(value, dict), (path, name, text)
            if isinstance(value, dict) and line is None:
                check(value, (*path, name))

    check(values, ())


def test_the_ranges_of_the_earlier_annotators_are_there_under_their_new_names() -> None:
    """target count, delay between requests, time until a crash is noticed: as a limit, a quota and a lease."""
    for name, least, most in (("lease", 2, 600), ("most_workers", 0, 1000), ("stuck_after", 0, 86_400)):
        rules = {type(rule).__name__: rule for rule in Settings.model_fields[name].metadata}
        assert (rules["Ge"].ge, rules["Le"].le) == (least, most)
