"""The one place that calls kreuzberg, with the settings that make it quiet: no cache, no OCR, no network.

It is imported on first use (150 ms). Its errors have no codes worth keeping, so they are told apart by what is known
about the file and by the few words that are stable.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gristmill.errors import InputError

PAGE_MARK = "\ue000"  # a private character around page numbers: no text holds it, no Markdown writer escapes it


def extract(
    data: bytes, media_type: str, name: str, *, output: str = "markdown", structure: bool = False, images: Any = None
) -> Any:  # fmt: skip
    """kreuzberg's result. Raises P202 for a password, P203 for everything else that it cannot read."""
    import kreuzberg

    configuration = kreuzberg.ExtractionConfig(
        use_cache=False,  # the cache would be a second store of the user's texts, outside of the project
        enable_quality_processing=False,  # it rewrites white space, and with it code and tables
        output_format=output,
        include_document_structure=structure,
        images=images,
        pages=kreuzberg.PageConfig(
            extract_pages=True, insert_page_markers=not structure,
            marker_format=f"\n\n{PAGE_MARK}{{page_num}}{PAGE_MARK}\n\n",
        ),
    )  # fmt: skip
    try:
        return kreuzberg.extract_bytes_sync(data, media_type, config=configuration)
    except kreuzberg.KreuzbergError as error:
        if "password" in str(error).lower() or "encrypted" in str(error).lower():
            raise locked(name) from error
        raise damaged(name, media_type) from error
    except MemoryError:
        raise
    except Exception as error:
        raise damaged(name, media_type) from error
    except BaseException as error:
        # A panic inside the Rust code arrives as an exception that is no Exception, so that nobody catches it by
        # accident. Here it means the same as any other failure to read the file, for this file only.
        if type(error).__name__ != "PanicException":
            raise
        raise damaged(name, media_type) from error


def pictures_of_pdf(data: bytes, name: str) -> Iterator[tuple[str, int | None, bytes]]:
    """(name, page, bytes) of every picture on the pages. Raises as `extract` does."""
    import kreuzberg

    result = extract(data, "application/pdf", name, images=kreuzberg.ImageExtractionConfig(extract_images=True))
    for number, image in enumerate(result.images or (), start=1):
        page = image.get("page_number")
        yield f"picture-{number}.{image.get('format') or 'bin'}", page, bytes(image["data"])


def locked(name: str) -> InputError:
    return InputError(
        f"{name} is protected by a password", code="P202", hint="save a copy without the password and add that"
    )


KNOWN = {
    "application/pdf": "a PDF", "text/html": "an HTML page", "application/epub+zip": "an EPUB book",
}  # fmt: skip


def too_many_pages(name: str, pages: int, limit: int) -> InputError:
    return InputError(
        f"{name} has {pages:,} pages, the limit is {limit:,}", code="P212",
        hint="split the file, or raise the option max_pages of the step parse (0: no limit)",
    )  # fmt: skip


def damaged(name: str, media_type: str) -> InputError:
    kind = KNOWN.get(media_type, "an Office document")
    return InputError(
        f"{name} is damaged or incomplete: it cannot be read as {kind}", code="P203",
        hint="open it in its own program, save it again and add the new copy",
    )  # fmt: skip
