"""Review through the API: claim, decide, take back, share out."""

from __future__ import annotations

from typing import Any

from gristmill.data.annotations import Entities, Entity
from gristmill.data.kinds import Chunk, Example, Source, content_hash
from gristmill.operators.operator import Context, operator
from gristmill.workflow import Workflow
from tests.api.conftest import Api
from tests.api.finished import finished


@operator("t_api_chunks")
async def chunks(source: Source, ctx: Context) -> Chunk:
    text = (await ctx.blobs.read(source.blob)).decode()
    return Chunk(text=text, end=len(text))


@operator("t_api_many")
async def many(source: Source) -> list[Example]:
    return [Example(question=f"Question {n}?", answer="Yes.") for n in range(201)]


async def claimed(api: Api, run: Any, **more: Any) -> list[dict[str, Any]]:
    found = await api.post("/api/reviews/claim", json={"run": run.name, **more})
    assert found.status_code == 200, found.text
    return list(found.json())


async def test_a_piece_comes_with_its_source_and_the_place_in_it_that_it_rests_on(api: Api) -> None:
    run = await finished(api)
    pieces = await claimed(api, run, limit=1, reviewer="ada")
    assert len(pieces) == 1
    lit = next(piece for piece in pieces if piece["source"]["marks"])
    mark = lit["source"]["marks"][0]
    assert lit["source"]["text"][mark["start"] : mark["end"]] == lit["body"]["quote"]
    others = await claimed(api, run, limit=50, reviewer="ben")
    assert not {one["record_id"] for one in pieces} & {one["record_id"] for one in others}
    again = await claimed(api, run, limit=1, reviewer="ada")
    assert [(one["record_id"], one["token"]) for one in again] == [(one["record_id"], one["token"]) for one in pieces]


async def test_a_decision_is_seen_everywhere_and_can_be_taken_back(api: Api) -> None:
    run = await finished(api)
    piece = (await claimed(api, run, limit=1, reviewer="ada"))[0]
    where = f"/api/reviews/{piece['record_id']}"
    said = {"decision": "accept", "reviewer": "ada", "token": piece["token"], "seen": piece["record_id"]}
    done = (await api.post(where, json=said)).json()
    assert (done["state"], done["changed"]) == ("accepted", True)
    assert (await api.post(where, json=said)).json()["changed"] is False
    assert (await api.json(f"/api/records/{piece['record_id']}"))["state"] == "accepted"
    fates = [
        cell["fate"]
        for row in (await api.json(f"/api/records/coverage?run={run.id}"))["items"]
        for cell in row["cells"]
    ]
    assert "reviewed" in fates
    rows = (await api.json("/api/rows", params={"run": run.id, "filter": "review = 'accepted'"}))["items"]
    assert [row["record_id"] for row in rows] == [str(piece["record_id"])]
    stats = await api.json("/api/reviews/stats", params={"run": run.id})
    assert stats["states"]["accepted"] == 1
    assert [one["reviewer"] for one in stats["reviewers"]] == ["ada"]
    lineage = await api.json(f"/api/records/{piece['record_id']}/lineage")
    assert [(one["reviewer"], one["decision"]) for one in lineage["verdicts"]] == [("ada", "accept")]
    undone = (await api.post(f"{where}/undo", json={"reviewer": "ada"})).json()
    assert (undone["state"], undone["before"]) == ("proposed", "accepted")
    nothing = await api.post("/api/reviews/undo", json={"run": run.name, "reviewer": "ada"})
    assert (nothing.status_code, nothing.json()["code"]) == (409, "V140")


async def test_a_page_of_the_largest_size_is_followed_by_the_next_one(api: Api) -> None:
    run = await finished(api, Workflow("t_api_many", [many]), {"a.txt": "a"}, model=None)
    first = await api.json("/api/reviews", params={"run": run.name, "limit": 200})
    assert (len(first["items"]), first["next"] is None) == (200, False)
    rest = await api.json("/api/reviews", params={"run": run.name, "limit": 200, "after": first["next"]})
    assert (len(first["items"]), len(rest["items"]), rest["next"]) == (200, 1, None)
    seen = {one["record_id"] for one in first["items"] + rest["items"]}
    assert len(seen) == 201


async def test_an_edit_stands_in_the_rows_and_one_that_is_no_such_body_is_refused(api: Api) -> None:
    run = await finished(api)
    piece = (await claimed(api, run, limit=1, reviewer="ada"))[0]
    where = f"/api/reviews/{piece['record_id']}"
    given = {"token": piece["token"], "reviewer": "ada"}
    wrong = await api.post(where, json={"decision": "edit", "changes": {"answer": 7}, **given})
    assert (wrong.status_code, wrong.json()["code"]) == (422, "V120")
    both = await api.post(where, json={"decision": "edit", "changes": {"answer": "x"}, "body": {}})
    assert (both.status_code, both.json()["code"]) == (422, "A424")
    said = {"decision": "edit", "changes": {"answer": "In 1852."}, **given}
    done = (await api.post(where, json=said)).json()
    assert done["state"] == "edited"
    rows = (await api.json("/api/rows", params={"run": run.id, "filter": "review = 'edited'", "limit": 1}))["items"]
    assert [(row["answer"], row["record_id"]) for row in rows] == [("In 1852.", str(done["revision_id"]))]
    whole = (await api.json("/api/rows", params={"run": run.id, "left_out": True, "limit": 200}))["items"]
    pages, after = [], None
    while True:
        page = await api.json(f"/api/rows?run={run.id}&left_out=true&limit=1" + (f"&after={after}" if after else ""))
        pages += page["items"]
        if (after := page["next"]) is None:
            break
    assert pages == whole


async def test_two_people_who_want_the_same_piece_get_a_conflict_that_names_the_other(api: Api) -> None:
    run = await finished(api)
    piece = (await claimed(api, run, limit=1, reviewer="ada"))[0]
    taken = await api.post(f"/api/reviews/{piece['record_id']}", json={"decision": "accept", "reviewer": "ben"})
    assert (taken.status_code, taken.json()["code"]) == (409, "V110")
    assert "ada" in taken.json()["detail"]
    missing = await api.post("/api/reviews/987654", json={"decision": "accept"})
    assert (missing.status_code, missing.json()["code"]) == (404, "A404")


async def test_pieces_are_shared_out_listed_and_decided_in_bulk(api: Api) -> None:
    run = await finished(api)
    given = await api.post("/api/reviews/assignments", json={"run": run.name, "reviewers": ["ada", "ben"], "count": 2})
    assert given.json() == {"given": {"ada": 1, "ben": 1}}
    assert {one["assignee"]: one["open"] for one in await api.json(f"/api/reviews/assignments?run={run.name}")}[
        "ada"
    ] == 1
    mine = (await api.json(f"/api/reviews?run={run.name}&assignee=ada"))["items"]
    assert [piece["assignee"] for piece in mine] == ["ada"]
    everything = (await api.json(f"/api/reviews?run={run.name}&limit=200"))["items"]
    seen = (
        await api.post("/api/actions", json={"action": "reject", "run": run.name, "filter": "source = 'mills.md'"})
    ).json()
    assert seen["count"] == sum(piece["source"]["name"] == "mills.md" for piece in everything)
    first = await api.json(f"/api/reviews?run={run.name}&limit=1")
    second = await api.json(f"/api/reviews?run={run.name}&limit=1&after={first['next']}")
    assert [one["record_id"] for one in first["items"] + second["items"]] == [
        one["record_id"] for one in everything[:2]
    ]


MILL = "The mill in Oak Hollow was built by Ada Stone."


@operator("t_api_names")
async def names(chunk: Chunk) -> Entities:
    start = chunk.text.index("Ada Stone")
    one = Entity(id="e1", start=start, end=start + 9, text="Ada Stone", label="person", score=0.5, match="exact")
    return Entities(
        subject=content_hash(chunk).hex(), annotator="test", by="model", outcome="ok", score=0.5, entities=(one,)
    )


async def test_a_span_goes_to_the_editor_of_label_studio_and_comes_back_moved(api: Api) -> None:
    run = await finished(api, Workflow("names", [chunks, names]), {"mill.txt": MILL}, model=None)
    piece = (await claimed(api, run, limit=1, reviewer="ada", editor=True))[0]
    assert piece["source"]["text"] == MILL
    assert "<Labels" in piece["editor"]["config"]
    result = piece["editor"]["task"]["annotations"][0]["result"]
    span = next(part for part in result if part["type"] == "labels")
    assert span["value"]["text"] == "Ada Stone"
    span["value"] |= {"start": MILL.index("Oak"), "end": MILL.index(" was"), "text": "Oak Hollow"}
    said = {"decision": "edit", "result": result, "token": piece["token"], "reviewer": "ada"}
    done = await api.post(f"/api/reviews/{piece['record_id']}", json=said)
    assert done.status_code == 200, done.text
    assert done.json()["state"] == "edited"
    made = await api.json(f"/api/records/{done.json()['revision_id']}")
    assert [(one["text"], one["start"]) for one in made["body"]["entities"]] == [("Oak Hollow", MILL.index("Oak"))]
    assert (made["body"]["by"], made["body"]["annotator"]) == ("person", "ada")
    span["value"] |= {"start": 3, "end": 400}
    wrong = await api.post(f"/api/reviews/{piece['record_id']}", json=said | {"token": None})
    assert wrong.status_code == 422, wrong.text
    fates = [row["cells"][0]["fate"] for row in (await api.json(f"/api/records/coverage?run={run.id}"))["items"]]
    assert fates == ["reviewed"]


async def test_what_waits_for_people_is_counted_by_run_and_a_run_that_nobody_opened_is_named(api: Api) -> None:
    run = await finished(api)
    assert (await api.get("/api/reviews/waiting")).json() == [
        {"run": run.id, "name": run.name, "pieces": None, "more": False}
    ]
    piece = (await claimed(api, run, limit=1, reviewer="ada"))[0]
    before = (await api.json("/api/reviews/waiting"))[0]
    assert before["pieces"] == (await api.json("/api/reviews/stats", params={"run": run.id}))["open"] > 0
    await api.post(f"/api/reviews/{piece['record_id']}", json={"decision": "accept", "reviewer": "ada"})
    assert (await api.json("/api/reviews/waiting"))[0]["pieces"] == before["pieces"] - 1
    await api.post("/api/reviews/claim", json={"run": run.name, "limit": 200, "reviewer": "ada"})
    for one in (await api.json("/api/reviews", params={"run": run.id, "state": "proposed", "limit": 200}))["items"]:
        await api.post(f"/api/reviews/{one['record_id']}", json={"decision": "accept", "reviewer": "ada"})
    assert await api.json("/api/reviews/waiting") == []
