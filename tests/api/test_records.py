"""Records through the API: coverage, lineage, texts, pictures, histograms."""

from __future__ import annotations

from tests.api.conftest import Api
from tests.api.finished import PLACES, finished


async def test_the_coverage_map_has_a_row_for_every_document_and_no_white_cell(api: Api) -> None:
    run = await finished(api)
    rows = (await api.json("/api/records/coverage", params={"run": run.id}))["items"]
    assert sorted(row["name"] for row in rows) == sorted(PLACES)
    cells = [cell for row in rows for cell in row["cells"]]
    assert {cell["kind"] for cell in cells} == {"chunk"}
    assert {cell["fate"] for cell in cells} <= {"accepted", "rejected"}
    dataset = (await api.json("/api/rows", params={"run": run.id, "left_out": True, "limit": 200}))["items"]
    assert sum(cell["n"] for cell in cells) == len(dataset)
    pages, after = [], None
    while True:
        page = await api.json(
            "/api/records/coverage", params={"run": run.id, "limit": 1} | ({"after": after} if after else {})
        )
        pages += page["items"]
        if (after := page["next"]) is None:
            break
    assert pages == rows


async def test_the_lineage_of_a_row_goes_from_the_file_to_the_row_with_its_place_in_the_text(api: Api) -> None:
    run = await finished(api)
    row = (await api.json("/api/rows", params={"run": run.id, "filter": "quote is not null"}))["items"][0]
    lineage = await api.json(f"/api/records/{row['record_id']}/lineage")
    kinds = [knot["kind"] for knot in lineage["thread"] if knot["distance"] >= 0]
    assert kinds[0] == "source"
    assert kinds[-1] == "example"
    assert {"document", "chunk", "question"} <= set(kinds)
    here = next(knot for knot in lineage["thread"] if knot["distance"] == 0)
    text = await api.json(f"/api/documents/{here['place']['document']}/text")
    assert text["text"][here["place"]["start"] : here["place"]["end"]] == row["quote"]
    part = await api.json(f"/api/documents/{here['place']['document']}/text", params={"start": 3, "most": 5})
    assert part["text"] == text["text"][3:8]
    story = await api.json(f"/api/tasks/{here['task']}/story")
    assert [one["outcome"] for one in story["attempts"]] == ["completed"]
    assert int(row["record_id"]) in [one["record"] for one in story["records"]]
    assert story["lineage"][0]["kind"] == "source"


async def test_a_record_shows_its_body_and_its_neighbours(api: Api) -> None:
    run = await finished(api)
    listed = (await api.json("/api/records", params={"run": run.id, "kind": "chunk"}))["items"]
    one = await api.json(f"/api/records/{listed[0]['id']}")
    assert one["body"]["text"]
    assert one["operator"] == "split"
    assert one["children"]
    assert one["state"] == "proposed"
    assert (await api.json(f"/api/records/{one['parents'][0]}"))["kind"] == "document"


async def test_histograms_count_every_result_once(api: Api) -> None:
    run = await finished(api)
    rows = (await api.json("/api/rows", params={"run": run.id, "left_out": True, "limit": 200}))["items"]
    lengths = await api.json("/api/records/histogram", params={"run": run.id, "field": "length"})
    assert sum(one["n"] for one in lengths["bins"]) == lengths["n"] == len(rows)
    labels = await api.json("/api/records/histogram", params={"run": run.id, "field": "label"})
    assert labels["without"] == len(rows)
    scores = await api.json("/api/records/histogram", params={"run": run.id, "field": "score"})
    assert (scores["n"], scores["bins"]) == (0, [])
    assert (await api.get("/api/records/histogram", params={"run": run.id, "field": "x"})).status_code == 422


async def test_a_range_that_cannot_be_had_is_a_problem_as_any_other(api: Api) -> None:
    hashed = await api.app.blobs.write(b"0123456789")
    for asked, status in (("bytes=2-3", 206), ("bytes=9-1,zz", 400), ("lines=1", 400), ("bytes=99-", 416)):
        found = await api.get(f"/api/blobs/{hashed}", headers={"Range": asked})
        assert found.status_code == status
        if status == 206:
            assert found.text == "23"
        else:
            assert found.json()["code"] == f"A{status}"
            assert found.headers["content-type"] == "application/problem+json"
    assert found.headers["content-range"] == "bytes */10"


async def test_a_blob_that_could_run_in_a_browser_is_a_download_without_a_type(api: Api) -> None:
    page = await api.app.blobs.write(b"<script>alert(1)</script>")
    drawing = await api.app.blobs.write(b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>')
    picture = await api.app.blobs.write(b"\x89PNG\r\n\x1a\n" + bytes(20))
    for digest in (page, drawing):
        found = await api.get(f"/api/blobs/{digest}")
        assert found.headers["content-type"] == "application/octet-stream"
        assert found.headers["content-disposition"].startswith("attachment")
        assert found.headers["x-content-type-options"] == "nosniff"
    found = await api.get(f"/api/blobs/{picture}")
    assert found.headers["content-type"] == "image/png"
    assert found.headers["content-disposition"].startswith("inline")
