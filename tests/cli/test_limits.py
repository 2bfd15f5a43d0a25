"""`gristmill limits` as people and programs use it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from gristmill.cli import gristmill
from gristmill.errors import UsageError


@pytest.fixture
def folder(tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GRISTMILL_DATABASE_URL", database_url)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def limits(*arguments: str) -> Result:
    return CliRunner().invoke(gristmill, ["limits", *arguments])


def test_a_limit_is_set_shown_with_all_its_figures_changed_and_forgotten(folder: Path) -> None:
    assert (
        limits("set", "mine", "--requests-per-minute", "15", "--requests-per-day", "1,500", "--burst", "5").exit_code
        == 0
    )
    (one,) = json.loads(limits("--json").stdout)["limits"]
    figures = ("requests_today", "quota_limit", "percentage_used", "can_make_request", "burst", "requests_per_minute")
    assert [one[name] for name in figures] == [0, 1500, 0.0, False, 5, 15.0]  # nobody knows what the last minute had
    assert 0 < one["wait_time_seconds"] < 30
    assert 0 <= one["tokens_available"] < 1
    told = limits().stdout
    assert "0 requests today of 1,500 (0.0 %, day of UTC)" in told
    assert "10.9 requests a minute now (limit 15;" in told
    changed = limits("set", "mine", "--requests-per-day", "none", "--time-zone", "Europe/Berlin", "--json")
    assert json.loads(changed.stdout) == {
        "schema": "gristmill.limits.set/1", "limit": "mine", "requests_per_minute": 15.0, "tokens_per_minute": None,
        "requests_per_day": None, "timezone": "Europe/Berlin", "burst": 5, "concurrency": None,
    }  # fmt: skip
    assert json.loads(limits("unset", "mine", "--json").stdout)["removed"]
    assert "there was no limit mine" in limits("unset", "mine").stdout


def test_limits_of_the_settings_are_there_at_once(folder: Path) -> None:
    (folder / "gristmill.toml").write_text('[limits."openai:KEY"]\nrequests_per_minute = 60\n')
    (one,) = json.loads(limits("--json").stdout)["limits"]
    assert (one["name"], one["requests_per_minute"], one["changed_by"]) == ("openai:KEY", 60.0, "settings")


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (("--requests-per-minute", "many"), "takes a number or none"),
        (("--requests-per-day", "0"), "--requests-per-day: Input should be greater than 0"),
        (("--burst", "1.5"), "--burst: Input should be a valid integer"),
        (("--time-zone", "Mars"), "there is no time zone"),
    ],
)
def test_a_wrong_limit_is_refused_and_changes_nothing(folder: Path, wrong: tuple[str, str], words: str) -> None:
    result = limits("set", "mine", *wrong)
    assert isinstance(result.exception, UsageError)
    assert result.exception.code == "U461"
    assert words in result.exception.message
    assert json.loads(limits("--json").stdout)["limits"] == []
