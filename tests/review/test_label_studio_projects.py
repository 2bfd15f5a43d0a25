"""Projects made of runs go to a server and come back as decisions, whatever dies or disagrees on the way."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from gristmill.app import App
from gristmill.data import records
from gristmill.data.annotations import Entities
from gristmill.errors import EnvironmentProblem, LockHeld, UsageError
from gristmill.review.decisions import decide, states
from gristmill.review.label_studio.client import Server
from gristmill.review.label_studio.conflicts import conflicts, settle
from gristmill.review.label_studio.editor import edited_body, editor_task
from gristmill.review.label_studio.labeling import parse_configuration
from gristmill.review.label_studio.projects import Project, make_project
from gristmill.review.label_studio.pull import Pulled, allowed_by, pull
from gristmill.review.label_studio.push import Pushed, push
from tests.by_hand import hand_of
from tests.review.label_studio_runs import AREAS, KINDS, SPANS, VOTES, picture, texts
from tests.review.label_studio_server import TOKEN, LabelStudio, label_studio

LINES = ("Ada wrote to Bob 🙂 from Rome.", "Nothing here.", "? Ada", "Bob & <Ada>", "! Rome")


@pytest.fixture
async def app(database_url: str, tmp_path: Path) -> AsyncIterator[App]:
    async with App(database_url, home=tmp_path / "home", workers=0) as opened:
        yield opened


@pytest.fixture
def studio() -> Iterator[LabelStudio]:
    with label_studio() as server:
        yield server


async def finished(app: App, workflow: Any, *inputs: Path) -> Any:
    async with hand_of(app) as hand:
        run = await app.start(workflow, list(inputs))
        await hand.drain(run)
    return run


async def pushed(app: App, project: Project, studio: LabelStudio) -> Pushed:
    async with Server(studio.url, TOKEN) as server:
        return await push(app.pool, project, server, app.blobs, by="me@here")


async def pulled(app: App, project: Project, studio: LabelStudio) -> Pulled:
    async with Server(studio.url, TOKEN) as server:
        number = await app.pool.fetchval("select server_project from label_server")
        check = allowed_by((await app.find(str(project.run_id))).workflow, project.kind)
        people = await server.people()
        labeling = parse_configuration(await server.config_of(number) or "")
        return await pull(
            app.pool, project, server.tasks(number), server.url, people, by="me@here", labeling=labeling, check=check
        )


async def pieces(app: App, project: Project) -> list[Any]:
    return [piece async for piece in project.pieces(app.pool)]


async def body_of(app: App, number: int | None) -> str:
    assert number is not None
    return (await records.load(app.pool, [number]))[number].body


async def test_a_project_holds_all_that_was_annotated_and_all_that_was_not(app: App, tmp_path: Path) -> None:
    run = await finished(app, SPANS, texts(tmp_path, *LINES))
    made = await make_project(run, by="me@here")
    assert (made.project.name, made.project.kind, made.pieces, made.annotated, made.unsaid) == (
        run.name, "entities", 5, 3, []
    )  # fmt: skip
    found = await pieces(app, made.project)
    assert [piece.subject.text for piece in found] == list(LINES)  # in the order of the text
    assert [None if piece.result is None else len(piece.result) for piece in found] == [3, 0, None, 2, None]
    first = found[0].document(made.project.labeling)
    assert first["data"]["source"] == "letters.md"
    assert first["data"]["record_id"] == found[0].subject.record_id
    assert [item["value"]["text"] for item in first["annotations"][0]["result"]] == ["Ada", "Bob", "Rome"]
    again = await make_project(run, by="me@here")
    assert [piece.result for piece in await pieces(app, again.project)] == [piece.result for piece in found]
    assert again.project == made.project


async def test_as_predictions_people_begin_with_an_empty_page(app: App, tmp_path: Path) -> None:
    run = await finished(app, SPANS, texts(tmp_path, *LINES))
    made = await make_project(run, mode="predictions")
    first = (await pieces(app, made.project))[0]
    assert first.result is None
    (one,) = first.predictions
    assert (one["model_version"], one["score"], len(one["result"])) == ("rule", 0.5, 3)


async def test_votes_of_a_panel_are_predictions_beside_its_verdict_and_a_tie_is_for_people(
    app: App, tmp_path: Path
) -> None:
    run = await finished(app, VOTES, texts(tmp_path, "a", "a text of fifteen"))
    made = await make_project(run)
    assert (made.project.kind, made.pieces) == ("classes", 2)
    agreed, tie = await pieces(app, made.project)
    assert [item["value"] for item in agreed.result] == [{"choices": ["short"]}]
    assert tie.result is None
    for piece, votes in ((agreed, ["short", "short"]), (tie, ["short", "long"])):
        said = {one["model_version"]: one["result"][0]["value"]["choices"][0] for one in piece.predictions}
        assert said == dict(zip(("first", "second"), votes, strict=True))


async def test_a_run_that_was_stopped_gives_what_it_has_and_the_rest_later(app: App, tmp_path: Path) -> None:
    async with hand_of(app) as hand:
        run = await app.start(SPANS, [texts(tmp_path, *LINES)])
        for task in await hand.claim():  # the file becomes lines
            await hand.settle((task, await hand.performer.perform(task)))
        tasks = await hand.claim()
        for task in tasks[:2]:
            await hand.settle((task, await hand.performer.perform(task)))
        await run.pause()
        part = await make_project(run)
        assert (part.pieces, part.project.run_state) == (5, "paused")
        early = {piece.ordinal: piece.result for piece in await pieces(app, part.project)}
        assert 0 < sum(result is not None for result in early.values()) <= 2
        for task in tasks[2:]:
            await hand.settle((task, await hand.performer.perform(task)))
        await run.resume()
        await hand.drain(run)
    whole = await make_project(run)
    late = {piece.ordinal: piece.result for piece in await pieces(app, whole.project)}
    assert (whole.annotated, whole.project.id) == (3, part.project.id)
    assert all(late[at] == result for at, result in early.items() if result is not None)  # ids are the same


async def test_what_cannot_become_a_project_is_refused(app: App, tmp_path: Path) -> None:
    run = await finished(app, SPANS, texts(tmp_path, *LINES))
    with pytest.raises(UsageError, match="makes boxes") as caught:
        await make_project(run, kind="boxes")
    assert caught.value.code == "L120"
    await make_project(run, name="mine")
    other = await finished(app, KINDS, texts(tmp_path, *LINES))
    with pytest.raises(UsageError, match="of another run") as caught:
        await make_project(other, name="mine")
    assert caught.value.code == "L122"


async def test_a_project_goes_to_a_server_and_comes_back_as_decisions(
    app: App, tmp_path: Path, studio: LabelStudio
) -> None:
    run = await finished(app, SPANS, texts(tmp_path, *LINES))
    project = (await make_project(run, by="me@here")).project
    done = await pushed(app, project, studio)
    assert (done.added, done.unchanged) == (5, 0)
    assert not any(one["ground_truth"] for task in studio.tasks.values() for one in task["annotations"])
    assert await pulled(app, project, studio) == Pulled(tasks=5, unchanged=3)  # nobody has said anything
    ada, empty, _, bob, rome = await pieces(app, project)
    starred = studio.task_of(ada.subject.record_id)["annotations"][0]
    starred |= {"ground_truth": True, "updated_by": 2, "updated_at": "2026-01-02T00:00:00Z"}
    mended = studio.task_of(bob.subject.record_id)["annotations"][0]
    studio.annotate(studio.task_of(bob.subject.record_id), mended["result"][:1], number=mended["id"])
    studio.annotate(studio.task_of(empty.subject.record_id), [], skipped=True)
    span = {"start": 2, "end": 6, "text": "Rome", "labels": ["LOC"]}
    fresh = {**mended["result"][0], "id": "by_hand_01", "value": span}
    studio.annotate(studio.task_of(rome.subject.record_id), [fresh])
    first = await pulled(app, project, studio)
    assert (first.taken, first.skipped, first.conflicts, first.refused, first.problems) == (3, 1, 0, 0, [])
    found = await states(app.pool, [piece.annotation_id for piece in (ada, empty, bob)])
    assert [found[piece.annotation_id].state for piece in (ada, empty, bob)] == ["accepted", "skipped", "edited"]
    assert {found[piece.annotation_id].reviewer for piece in (ada, bob)} == {"ann@example.com"}
    body = Entities.model_validate_json(await body_of(app, found[bob.annotation_id].revision_id))
    assert [one.text for one in body.entities] == ["Bob"]
    assert (body.annotator, body.by, body.entities[0].id, body.entities[0].score) == (
        "ann@example.com", "person", "e1", 0.5
    )  # fmt: skip
    added = (await pieces(app, project))[4].annotation_id
    assert (await states(app.pool, [added]))[added].state == "accepted"
    again = await pulled(app, project, studio)
    assert (again.taken, again.skipped, again.unchanged) == (0, 0, 5)
    decisions = await app.pool.fetchval("select count(*) from review_decision")
    await app.pool.execute("delete from label_pulled")  # as if it had been killed before it could note them down
    assert (await pulled(app, project, studio)).conflicts == 0
    assert await app.pool.fetchval("select count(*) from review_decision") == decisions
    last = await pushed(app, (await make_project(run)).project, studio)
    assert (last.added, last.changed, last.kept, last.unchanged) == (0, 0, 0, 5)


async def test_what_changed_here_is_changed_there_and_a_piece_that_changed_on_both_sides_is_a_conflict(
    app: App, tmp_path: Path, studio: LabelStudio
) -> None:
    run = await finished(app, SPANS, texts(tmp_path, *LINES))
    project = (await make_project(run)).project
    await pushed(app, project, studio)
    ada, _, _, bob, _ = await pieces(app, project)
    for piece in (ada, bob):
        body = json.loads(await body_of(app, piece.annotation_id))
        await decide(
            app.pool, piece.annotation_id, "edit", "eve", changes={"entities": body["entities"][:1]}, run_id=run.id
        )
    theirs = studio.task_of(bob.subject.record_id)["annotations"][0]
    studio.annotate(studio.task_of(bob.subject.record_id), theirs["result"][1:], number=theirs["id"])
    project = (await make_project(run)).project
    done = await pushed(app, project, studio)
    assert (done.changed, done.kept, done.unchanged) == (1, 1, 3)
    assert len(studio.task_of(ada.subject.record_id)["annotations"][0]["result"]) == 1
    first = await pulled(app, project, studio)
    assert (first.taken, first.conflicts) == (0, 1)
    (conflict,) = await conflicts(app.pool, project)
    assert (conflict.who, conflict.ours_state, conflict.source) == ("ann@example.com", "edited", "letters.md")
    assert conflict.reason == "it was edited here since it was sent"
    assert [one["text"] for one in conflict.ours["entities"]] == ["Bob"]
    assert [item["value"]["text"] for item in conflict.theirs] == ["Ada"]
    assert (await pulled(app, project, studio)).conflicts == 0  # told once, kept
    await settle(app.pool, project, conflict.id, "theirs", "boss")
    assert await conflicts(app.pool, project) == []
    found = (await states(app.pool, [bob.annotation_id]))[bob.annotation_id]
    assert (found.state, found.reviewer) == ("edited", "ann@example.com")
    with pytest.raises(UsageError, match="no open conflict"):
        await settle(app.pool, project, conflict.id, "ours", "boss")


async def test_two_people_who_disagree_are_a_conflict_and_two_who_agree_are_not(
    app: App, tmp_path: Path, studio: LabelStudio
) -> None:
    run = await finished(app, SPANS, texts(tmp_path, *LINES))
    project = (await make_project(run, mode="predictions")).project
    await pushed(app, project, studio)
    ada, empty, *_ = await pieces(app, project)
    result = ada.predictions[0]["result"]
    for who in (1, 2):
        studio.annotate(studio.task_of(ada.subject.record_id), result[:who], who=who)
        studio.annotate(studio.task_of(empty.subject.record_id), [], who=who)
    first = await pulled(app, project, studio)
    assert (first.taken, first.conflicts) == (2, 2)
    assert "owner@example.com and ann@example.com disagree" in first.problems[0]
    both = await conflicts(app.pool, project)
    await settle(app.pool, project, both[1].id, "ours", "boss")
    assert await conflicts(app.pool, project) == []
    assert (await states(app.pool, [ada.annotation_id])).get(ada.annotation_id) is None


async def test_what_cannot_be_used_is_kept_with_the_reason(app: App, tmp_path: Path, studio: LabelStudio) -> None:
    run = await finished(app, SPANS, texts(tmp_path, *LINES))
    project = (await make_project(run)).project
    await pushed(app, project, studio)
    ada = (await pieces(app, project))[0]
    task = studio.task_of(ada.subject.record_id)
    bad = json.loads(json.dumps(task["annotations"][0]["result"]))
    bad[0]["value"]["end"] = 900
    studio.annotate(task, bad, number=task["annotations"][0]["id"])
    studio.tasks[98] = {"id": 98, "project": 1, "data": {"text": "x", "record_id": 10**9}, "annotations": []}
    studio.tasks[99] = {"id": 99, "project": 1, "data": {"text": "x"}, "annotations": []}
    first = await pulled(app, project, studio)
    assert (first.refused, first.unknown, first.tasks) == (1, 2, 5)
    assert "value.end: 900" in first.problems[0]
    (kept,) = await conflicts(app.pool, project)
    assert kept.state == "refused"
    config = studio.projects[1]["label_config"]  # people add a label of their own
    studio.projects[1]["label_config"] = config.replace("</Labels>", '<Label value="NEW"/></Labels>')
    empty = studio.task_of((await pieces(app, project))[1].subject.record_id)
    said = {"start": 0, "end": 7, "text": "Nothing", "labels": ["NEW"]}
    span = {"id": "by_hand_01", "from_name": "entity", "to_name": "text", "type": "labels", "value": said}
    studio.annotate(empty, [span])
    second = await pulled(app, project, studio)
    assert (second.refused, second.unchanged) == (1, 3)
    assert "'NEW' is not one of the labels" in second.problems[0]
    del empty["annotations"][-1]
    task["annotations"][0]["result"][0]["value"]["end"] = 3
    studio.annotate(task, task["annotations"][0]["result"], number=task["annotations"][0]["id"])
    assert (await pulled(app, project, studio)).taken == 1
    assert [one.subject_id for one in await conflicts(app.pool, project)] == [empty["data"]["record_id"]]


async def test_a_push_that_breaks_off_goes_on_and_sends_nothing_twice(
    app: App, tmp_path: Path, studio: LabelStudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gristmill.review.label_studio.push.BATCH", 2)
    run = await finished(app, SPANS, texts(tmp_path, *LINES))
    project = (await make_project(run)).project
    imports: list[str] = []

    def broken(method: str, path: str) -> int:
        imports.extend([path] if "/import" in path else [])
        return 502 if len(imports) == 2 and "/import" in path else 0

    studio.after = broken  # it was done, and nobody was told
    with pytest.raises(EnvironmentProblem, match="answered 502") as caught:
        await pushed(app, project, studio)
    assert caught.value.code == "L133"
    assert len(studio.tasks) == 4
    studio.expire()  # and the access token is over
    done = await pushed(app, project, studio)
    assert (done.added, done.unchanged, len(studio.tasks), len(studio.projects)) == (1, 4, 5, 1)
    assert sorted(task["data"]["record_id"] for task in studio.tasks.values()) == sorted(
        piece.subject.record_id for piece in await pieces(app, project)
    )
    await app.pool.execute("delete from label_server")  # nor is the project made twice
    assert (await pushed(app, project, studio)).added == 0
    assert len(studio.projects) == 1


async def test_a_server_that_is_busy_is_asked_again_and_a_token_that_is_over_is_renewed(
    app: App, tmp_path: Path, studio: LabelStudio
) -> None:
    run = await finished(app, SPANS, texts(tmp_path, *LINES))
    project = (await make_project(run)).project
    seen: list[str] = []

    def busy(method: str, path: str) -> int:
        seen.append(path)
        if path.startswith("/api/tasks") and seen.count(path) == 1:
            studio.expire()
            return 503
        return 0

    studio.before = busy
    assert (await pushed(app, project, studio)).added == 5
    assert studio.asked.count("POST /api/token/refresh/") == 2


async def test_a_wrong_token_a_wrong_address_and_a_server_of_another_kind_are_told_apart(
    app: App, studio: LabelStudio
) -> None:
    async with Server(studio.url, "a.wrong.token") as server:
        with pytest.raises(EnvironmentProblem, match="refuses the token") as caught:
            await server.people()
        assert (caught.value.code, "a.wrong.token" in str(caught.value)) == ("L132", False)
    async with Server("http://127.0.0.1:1", TOKEN) as server:
        with pytest.raises(EnvironmentProblem, match="no answer from") as caught:
            await server.add_tasks(1, [])
        assert caught.value.code == "L131"
    for wrong in ("ftp://x", "http://user:secret@x", "http://x?token=1", "", "http://"):
        with pytest.raises(UsageError, match="is like http://localhost:8080") as bad:
            Server(wrong, TOKEN)
        assert "secret" not in str(bad.value)
    with pytest.raises(UsageError, match="token of Label Studio is empty"):
        Server(studio.url, " ")


async def test_two_pushes_of_one_project_at_once_are_not_possible(
    app: App, tmp_path: Path, studio: LabelStudio
) -> None:
    run = await finished(app, SPANS, texts(tmp_path, *LINES))
    project = (await make_project(run)).project
    refused: list[str] = []

    async with Server(studio.url, TOKEN) as server, Server(studio.url, TOKEN) as other:

        async def second() -> None:
            with pytest.raises(LockHeld) as caught:
                await push(app.pool, project, other, app.blobs, by="you@there", wait=0)
            refused.append(str(caught.value))

        tasks = server.tasks

        async def slowly(number: int) -> AsyncIterator[Any]:
            await second()
            async for task in tasks(number):
                yield task

        server.tasks = slowly  # type: ignore[method-assign, assignment]
        await push(app.pool, project, server, app.blobs, by="me@here")
    assert len(refused) == 1
    assert len(studio.tasks) == 5


async def test_pictures_are_uploaded_once_and_boxes_come_back(app: App, tmp_path: Path, studio: LabelStudio) -> None:
    run = await finished(app, AREAS, picture(tmp_path), picture(tmp_path, "b.png", "blue"))
    project = (await make_project(run)).project
    done = await pushed(app, project, studio)
    assert (done.added, done.pictures) == (2, 2)
    one = (await pieces(app, project))[0]
    assert one.subject.picture is not None
    task = studio.task_of(one.subject.record_id)
    (stored,) = [data for _, path, data in studio.files.values() if f"/data/{path}" == task["data"]["image"]]
    assert stored == await app.blobs.read(one.subject.picture.blob)
    (box,) = task["annotations"][0]["result"]
    assert (box["original_width"], box["original_height"]) == (40, 30)
    assert box["value"] == {
        "x": 25.0, "y": 33.3333333, "width": 50.0, "height": 33.3333333, "rotation": 0.0, "rectanglelabels": ["cat"],
    }  # fmt: skip
    studio.annotate(task, [{**box, "value": {**box["value"], "x": 0.0, "rectanglelabels": ["dog"]}}])
    del task["annotations"][0]  # they have thrown ours away
    assert (await pulled(app, project, studio)).taken == 1
    found = (await states(app.pool, [one.annotation_id]))[one.annotation_id]
    body = json.loads(await body_of(app, found.revision_id))
    assert [(part["label"], part["x"], part["id"]) for part in body["boxes"]] == [("dog", 0.0, "b1")]
    await app.pool.execute("delete from label_task")
    assert (await pushed(app, project, studio)).pictures == 0


async def test_the_editor_gets_what_stands_and_gives_back_a_body(app: App, tmp_path: Path) -> None:
    run = await finished(app, SPANS, texts(tmp_path, *LINES))
    project = (await make_project(run)).project
    ada = (await pieces(app, project))[0]
    opened = await editor_task(app.pool, ada.annotation_id, run.workflow)
    assert '<Label value="PER"' in opened["config"]
    result = opened["task"]["annotations"][0]["result"]
    assert result == ada.result
    body = await edited_body(app.pool, ada.annotation_id, run.workflow, result[:1], "eve")
    made = await decide(app.pool, ada.annotation_id, "edit", "eve", body=body, run_id=run.id)
    assert made.state == "edited"
    again = await editor_task(app.pool, ada.annotation_id, run.workflow)
    assert again["task"]["annotations"][0]["result"] == result[:1]
    with pytest.raises(UsageError, match="cannot be used") as caught:
        await edited_body(app.pool, ada.annotation_id, run.workflow, [{"id": "x"}], "eve")
    assert caught.value.code == "L108"
    with pytest.raises(UsageError, match="is no annotation"):
        await editor_task(app.pool, ada.subject.record_id, run.workflow)
