"""Annotations of a run as files, by names that no format of rows has: what the API and its tasks write."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

from gristmill.errors import UsageError
from gristmill.review.label_studio.export_boxes import file_name
from gristmill.review.label_studio.export_text import Layout
from gristmill.review.label_studio.exports import (
    FORMATS,
    AnnotationFormat,
    Exported,
    entries,
    export_project,
    find_annotation_format,
)
from gristmill.review.label_studio.flow import flow_of
from gristmill.review.label_studio.offsets import Unit
from gristmill.review.label_studio.projects import Project, RunLike, make_project
from gristmill.review.label_studio.subjects import picture_name

_SHORT = {"label-studio": "json", "label-studio-min": "json-min", "annotations-csv": "csv", "annotations-tsv": "tsv"}
NAMES: Mapping[str, AnnotationFormat] = {name: FORMATS[own] for name, own in _SHORT.items()} | {
    name: found for name, found in FORMATS.items() if name not in _SHORT.values()
}
OPTIONS = ("reviewed", "kind", "offsets")


@dataclass(frozen=True, slots=True)
class AnnotationOptions:
    """`reviewed`: only what a person has accepted or edited; `kind`: what to take, where a run makes several kinds;
    `offsets`: what places in texts count in."""

    reviewed: bool = False
    kind: str | None = None
    offsets: Unit = "codepoint"


def annotation_options(run: RunLike, name: str, wanted: Mapping[str, Any]) -> AnnotationOptions:
    """Options that fit the run and the format. Raises `UsageError` U412 for one that annotations do not have, L120 for
    a run that annotates nothing, L160 for a format that cannot hold what it annotates."""
    if unknown := sorted(set(wanted) - set(OPTIONS)):
        raise UsageError(
            f'"{unknown[0]}" says nothing about annotations', code="U412", safe="nothing was written",
            hint=f"options of {name}: {', '.join(OPTIONS)}",
        )  # fmt: skip
    made = AnnotationOptions(**wanted)
    if made.offsets not in get_args(Unit):
        raise UsageError(f"offsets={made.offsets!r} is not known", code="U412", hint=", ".join(get_args(Unit)))
    find_annotation_format(NAMES[name].name, flow_of(run.workflow, made.kind).kind)
    return made


async def _project(run: RunLike, options: AnnotationOptions, by: str) -> Project:
    """The project of the run, brought up to date. Its name says the kind where that was asked for, so that two kinds of
    one run do not meet."""
    last = flow_of(run.workflow).kind
    name = run.name if options.kind in (None, last) else f"{run.name}-{options.kind}"
    return (await make_project(run, name=name, kind=options.kind, by=by)).project


async def export_annotations(
    run: RunLike, path: Path, name: str, options: AnnotationOptions, *, blobs: Any, by: str
) -> Exported:
    """Writes what stands of a run's annotations. Raises what `make_project` and `export_project` raise."""
    project = await _project(run, options, by)
    return await export_project(
        run.app.pool, project, path, NAMES[name].name, blobs=blobs, reviewed=options.reviewed, unit=options.offsets
    )


async def preview_annotations(
    run: RunLike, name: str, options: AnnotationOptions, count: int, *, by: str
) -> tuple[str, int]:  # fmt: skip
    """The beginning of such an export as text, with how many annotations are in it; of a folder the files beside the
    pictures, each under its name."""
    project = await _project(run, options, by)
    found, layout = NAMES[name], Layout(project.labeling, picture_name, options.offsets)
    text, folder = (found.text(layout) if found.text else None), (found.folder(layout) if found.folder else None)
    parts: list[str] = [text.head()] if text else []
    shown = 0
    async for entry in entries(run.app.pool, project, reviewed=options.reviewed):
        if text:
            parts.append(text.entry(entry))
        elif folder and entry.subject.picture is not None:
            parts += _named(folder.files(entry, file_name(entry)))
        shown += 1
        if shown == count:
            break
    parts += [text.tail()] if text else _named(cast(Any, folder).finish())
    return "".join(parts), shown


def _named(files: Mapping[str, bytes]) -> list[str]:
    return [f"--- {name}\n{content.decode('utf-8', 'replace')}\n" for name, content in files.items()]
