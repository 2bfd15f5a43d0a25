"""A thousand texts and some pictures to a real Label Studio server and back: `python -m benchmarks.label_studio`.

It needs a server and its personal access token, outside of this project's environment:

    pip install label-studio==1.23.0 (about 1 GB, in an environment of its own); label-studio start
    LABEL_STUDIO_URL=http://127.0.0.1:8080 LABEL_STUDIO_API_KEY=... python -m benchmarks.label_studio

What is killed is killed with SIGKILL: the process that annotates, half-way, and the one that pushes, half-way.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

from PIL import Image as pillow

from benchmarks.measure import publish, table
from gristmill.app import App
from gristmill.data.annotations import Box, Boxes, Entities, Entity, Relation, Relations
from gristmill.data.kinds import Chunk, Image, Source, content_hash
from gristmill.operators.annotation_options import Labels, Named, RelationType, RelationTypes
from gristmill.operators.operator import Context, operator
from gristmill.operators.read_images import read_images
from gristmill.review.decisions import states
from gristmill.review.label_studio.client import Server
from gristmill.review.label_studio.labeling import parse_configuration
from gristmill.review.label_studio.projects import Project, make_project
from gristmill.review.label_studio.pull import pull
from gristmill.review.label_studio.push import placed, push
from gristmill.workflow import Workflow

ANSWERED = 150  # tasks that people look at: the server takes a quarter of a second for each
WORDS = ("Ada", "Bob \N{SLIGHTLY SMILING FACE}", "Rome", "\u05e9\u05dc\u05d5\u05dd", "cafe\u0301", '<A & "B">', "東京")
PEOPLE = [Named(name="PER"), Named(name="A & <B>"), Named(name="人物")]
JOINS = [RelationType(name="wrote to"), RelationType(name="knows", symmetric=True)]
THINGS = [Named(name="cat"), Named(name="$dog")]


@operator("bench_lines")
async def lines(source: Source, ctx: Context) -> list[Chunk]:
    text = (await ctx.blobs.read(source.blob)).decode()
    return [Chunk(text=line, ordinal=at) for at, line in enumerate(text.splitlines())]


@operator("bench_spans")
async def spans(chunk: Chunk, labels: Labels = PEOPLE, pause: float = 0.005) -> Entities:
    await asyncio.sleep(pause)
    found = re.finditer("|".join(map(re.escape, WORDS)), chunk.text)
    entities = tuple(
        Entity(
            id=f"e{at}", start=one.start(), end=one.end(), text=one[0], label=PEOPLE[one.start() % 3].name, score=0.5
        )
        for at, one in enumerate(found, 1)
    )
    return Entities(
        subject=content_hash(chunk).hex(), annotator="rule", entities=entities, outcome="ok" if entities else "empty"
    )


@operator("bench_joins")
async def joins(said: Entities, chunk: Chunk, labels: Labels = PEOPLE, relations: RelationTypes = JOINS) -> Relations:
    ends = [one.id for one in said.entities]
    made = tuple(
        Relation(head=head, tail=tail, label=JOINS[at % 2].name, symmetric=bool(at % 2))
        for at, (head, tail) in enumerate(itertools.pairwise(ends))
    )
    return Relations(subject=said.subject, annotator="rule", entities=said.entities, relations=made)


@operator("bench_boxes")
async def boxes(image: Image, labels: Labels = THINGS) -> Boxes:
    found = (
        Box(id="b1", label="cat", x=0, y=0, width=1, height=1 / 3, score=0.9),
        Box(id="b2", label="$dog", x=1 / 3, y=0.5, width=0.25, height=0.1, rotation=33.3),
    )
    return Boxes(
        subject=content_hash(image).hex(), annotator="rule", by="detector", width=image.width, height=image.height,
        boxes=found,
    )  # fmt: skip


TEXTS = Workflow("bench-texts", [lines, spans, joins])
PICTURES = Workflow("bench-pictures", [read_images, boxes])


def prepare(folder: Path, items: int, pictures: int) -> None:
    """The inputs: lines of hostile words; pictures, every second one turned by its EXIF."""
    chance = random.Random(1)
    text = "\n".join(f"{number}: " + " and ".join(chance.choices(WORDS, k=4)) for number in range(items))
    (folder / "lines.md").write_text(text)
    for number in range(pictures):
        image = pillow.new("RGB", (300 + number, 200), (number % 256, 90, 120))
        exif = image.getexif()
        exif[0x0112] = 6 if number % 2 else 1
        image.save(folder / f"p{number}.jpg", exif=exif)


async def annotate(folder: Path) -> None:
    async with App(home=folder / "home", workers=2) as app:
        for workflow, pattern in ((TEXTS, "*.md"), (PICTURES, "*.jpg")):
            run = await app.start(workflow, [f"{folder}/{pattern}"])
            print((await run.wait()).state, flush=True)


async def send(folder: Path, name: str) -> None:
    async with App(home=folder / "home", workers=0) as app, server() as there:
        made = await make_project(await app.find(name), by="bench")
        done = await push(
            app.pool, made.project, there, app.blobs, by="bench", told=lambda done: print(done.added, flush=True)
        )
        print(json.dumps(done.as_document()), flush=True)


def server() -> Server:
    return Server(os.environ["LABEL_STUDIO_URL"], os.environ["LABEL_STUDIO_API_KEY"])


def part(folder: Path, *arguments: str, kill_after: int | None = None) -> list[str]:
    """This script in a process group of its own; killed after it has said so many lines."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.label_studio", "--part", *arguments, "--folder", str(folder)],
        stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    said: list[str] = []
    for line in process.stdout:
        said.append(line.strip())
        if len(said) == kill_after:
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return said


async def killed_half_way(folder: Path, items: int) -> int:
    """Annotates, is killed when about half is done, and goes on. Returns how many were done at the kill."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.label_studio", "--part", "annotate", "--folder", str(folder)],
        stdout=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    done = 0
    while done < items // 2 and process.poll() is None:
        await asyncio.sleep(0.3)
        done = await annotated(folder)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    part(folder, "annotate")
    return done


async def annotated(folder: Path) -> int:
    if not os.path.exists(folder / "home/postgres/data/postmaster.pid"):  # noqa: ASYNC240
        return 0
    try:
        async with App(home=folder / "home", workers=0) as app:
            return int(await app.pool.fetchval("select count(*) from record where kind = 'relations'"))
    except Exception:
        return 0


async def timed(work: Awaitable[Any]) -> tuple[Any, float]:
    start = time.monotonic()
    return await work, time.monotonic() - start


async def people_answer(there: Server, number: int) -> Counter[str]:
    """A third accepts, a third takes the last part away, the rest leaves everything as it is."""
    did: Counter[str] = Counter()
    tasks = [task async for task in there.tasks(number)]
    for at, task in enumerate(tasks):
        if at % 3 == 2 or at >= ANSWERED:
            did["left alone"] += 1
            continue
        one = task["annotations"][0]
        result = one["result"] if at % 3 == 0 else without_last(one["result"])
        did["accepted" if at % 3 == 0 or result == one["result"] else "edited"] += 1
        await there._ask("PATCH", f"/api/annotations/{one['id']}/", {"result": result, "lead_time": 1.5})
    return did


def without_last(result: list[Any]) -> list[Any]:
    """Without the last relation, or else without the last region."""
    return result[:-1]


async def back(folder: Path, name: str, rows: list[list[str]]) -> None:
    async with App(home=folder / "home", workers=0) as app, server() as there:
        run = await app.find(name)
        project: Project = (await make_project(run)).project
        number = await placed(app.pool, project, there)
        tasks = [task async for task in there.tasks(number)]
        records = Counter(task["data"]["record_id"] for task in tasks)
        ours = {piece.subject.record_id: piece async for piece in project.pieces(app.pool)}
        assert set(records) == set(ours)
        assert set(records.values()) == {1}
        assert all(task["annotations"][0]["result"] == ours[task["data"]["record_id"]].result for task in tasks)
        assert parse_configuration(await there.config_of(number) or "") == project.labeling
        rows.append([name, "tasks on the server; each record once, each result as it was sent", f"{len(tasks):,}", ""])
        did = await people_answer(there, number)
        people = await there.people()
        done, seconds = await timed(pull(app.pool, project, there.tasks(number), there.url, people, by="bench"))
        assert (done.taken, done.conflicts, done.refused) == (did["accepted"] + did["edited"], 0, 0), done
        rows.append([name, "pulled: decisions of people", f"{done.taken:,}", f"{seconds:.1f}"])
        asked = [piece.annotation_id for piece in ours.values() if piece.annotation_id is not None]
        found = Counter(one.state for one in (await states(app.pool, asked)).values())
        assert (found["accepted"], found["edited"]) == (did["accepted"], did["edited"]), (found, did)
        again, seconds = await timed(pull(app.pool, project, there.tasks(number), there.url, people, by="bench"))
        assert (again.taken, again.conflicts, again.refused) == (0, 0, 0)
        rows.append([name, "pulled again: nothing new", f"{again.taken:,}", f"{seconds:.1f}"])
        project = (await make_project(run)).project
        sent, seconds = await timed(push(app.pool, project, there, app.blobs, by="bench"))
        assert (sent.added, sent.changed, sent.kept) == (0, 0, 0), sent
        rows.append([name, "pushed after that: nothing to send", f"{sent.added + sent.changed:,}", f"{seconds:.1f}"])


async def main(items: int, pictures: int) -> None:
    rows: list[list[str]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder, items, pictures)
        half = await killed_half_way(folder, items)
        done = await annotated(folder)
        assert done == items
        rows.append(["texts", "annotated when the processes were killed; in the end", f"{half:,}; {done:,}", ""])
        first = part(folder, "send", "--name", "bench-texts-1", kill_after=max(1, items // 100))
        start = time.monotonic()
        second = json.loads(part(folder, "send", "--name", "bench-texts-1")[-1])
        assert second["added"] < items
        took = time.monotonic() - start
        rows.append(
            [
                "texts",
                f"push killed after {first[-1]} tasks; sent by the next one",
                f"{second['added']:,}",
                f"{took:.1f}",
            ]
        )
        await back(folder, "bench-texts-1", rows)
        sent = json.loads(part(folder, "send", "--name", "bench-pictures-2")[-1])
        assert sent["pictures"] == pictures
        await back(folder, "bench-pictures-2", rows)
        async with server() as there:
            version = await there.version()
    text = f"Label Studio {version}, SQLite.\n\n" + table(["project", "what", "count", "seconds"], rows)
    publish("label_studio", text, "python -m benchmarks.label_studio")
    print(text)


if __name__ == "__main__":
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--items", type=int, default=1000)
    arguments.add_argument("--pictures", type=int, default=20)
    arguments.add_argument("--part", choices=["annotate", "send"])
    arguments.add_argument("--folder", type=Path)
    arguments.add_argument("--name", default="")
    given = arguments.parse_args()
    if given.part == "annotate":
        asyncio.run(annotate(given.folder))
    elif given.part == "send":
        asyncio.run(send(given.folder, given.name))
    else:
        asyncio.run(main(given.items, given.pictures))
