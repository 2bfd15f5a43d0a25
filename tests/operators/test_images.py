"""Pictures: what is read and refused, what a model is sent, and questions and answers about them."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from PIL import Image as pillow
from PIL import ImageDraw

from gristmill.data.kinds import Example, Image, Question, Source
from gristmill.errors import InputError, InvalidOutput, WorkflowError
from gristmill.llm.model import Image as Shown
from gristmill.llm.model import Request
from gristmill.operators import answer_image, ask_image, read_images
from gristmill.operators.pictures import fit
from gristmill.testing import MemoryBlobs, ScriptedModel, perform


def drawn(size: tuple[int, int] = (80, 40), mode: str = "RGB", colour: str = "white") -> pillow.Image:
    """A dark disc in the left half, and a bar at the right."""
    canvas = pillow.new("RGB", size, colour)
    pen = ImageDraw.Draw(canvas)
    pen.ellipse((size[0] * 0.1, size[1] * 0.1, size[0] * 0.4, size[1] * 0.9), "black")
    pen.rectangle((size[0] * 0.7, 0, size[0] * 0.75, size[1]), "red")
    return canvas.convert(mode)


def saved(image: pillow.Image, form: str, **more: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **more)
    return file.getvalue()


async def read(data: bytes, name: str = "a.png", **options: Any) -> tuple[Image, MemoryBlobs]:
    blobs = MemoryBlobs()
    source = Source(name=name, blob=await blobs.write(data), size=len(data), media_type="")
    (made,) = await perform(read_images, source, blobs=blobs, options=options)
    assert isinstance(made, Image)
    return made, blobs


@pytest.mark.parametrize(
    ("form", "media_type"),
    [("PNG", "image/png"), ("JPEG", "image/jpeg"), ("WEBP", "image/webp"), ("GIF", "image/gif"), ("BMP", "image/bmp")],
)
async def test_a_picture_keeps_its_bytes_and_tells_its_size(form: str, media_type: str) -> None:
    data = saved(drawn(), form)
    image, blobs = await read(data, "wrongly named.txt")
    assert (image.media_type, image.width, image.height) == (media_type, 80, 40)
    assert await blobs.read(image.blob) == data


async def test_a_picture_of_a_turned_camera_stands_upright() -> None:
    exif = pillow.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    image, blobs = await read(saved(drawn(), "JPEG", exif=exif, quality=95))
    assert (image.width, image.height) == (40, 80)
    with pillow.open(io.BytesIO(await blobs.read(image.blob))) as upright:
        assert upright.size == (40, 80)
        assert upright.getexif().get(0x0112, 1) == 1
    plain, _ = await read(saved(drawn().transpose(pillow.Transpose.ROTATE_270), "PNG"))
    assert distance(image, plain) <= 4


def distance(first: Image, second: Image) -> int:
    assert first.perceptual_hash is not None
    assert second.perceptual_hash is not None
    return (int(first.perceptual_hash, 16) ^ int(second.perceptual_hash, 16)).bit_count()


async def test_close_pictures_have_close_hashes_and_others_have_not() -> None:
    image, _ = await read(saved(drawn((640, 320)), "PNG"))
    smaller, _ = await read(saved(drawn((320, 160)), "JPEG", quality=40))
    mirrored, _ = await read(saved(drawn((640, 320)).transpose(pillow.Transpose.FLIP_LEFT_RIGHT), "PNG"))
    assert image.perceptual_hash is not None
    assert len(image.perceptual_hash) == 16
    assert distance(image, smaller) <= 4
    assert distance(image, mirrored) >= 10


@pytest.mark.parametrize(
    ("mode", "form"),
    [("1", "PNG"), ("L", "PNG"), ("P", "GIF"), ("RGBA", "PNG"), ("LA", "PNG"), ("CMYK", "JPEG"), ("I;16", "PNG")],
)
async def test_every_kind_of_colour_is_read_and_can_be_shown(mode: str, form: str) -> None:
    source = pillow.new("I;16", (80, 40), 40_000) if mode == "I;16" else drawn(mode=mode)
    image, blobs = await read(saved(source, form))
    data, media_type = fit(await blobs.read(image.blob), image.media_type, 64)
    with pillow.open(io.BytesIO(data)) as shown:
        assert shown.size == (64, 32)
        assert shown.get_format_mimetype() == media_type


def test_what_is_small_enough_is_sent_as_it_is_and_the_rest_in_a_form_that_all_take() -> None:
    small = saved(drawn(), "PNG")
    assert fit(small, "image/png", 1568) == (small, "image/png")
    assert fit(saved(drawn(), "GIF"), "image/gif", 1568)[1] == "image/png"
    assert fit(saved(drawn(), "BMP"), "image/bmp", 1568)[1] == "image/png"
    data, media_type = fit(saved(drawn((3000, 1000)), "JPEG"), "image/jpeg", 1568)
    assert media_type == "image/jpeg"
    with pillow.open(io.BytesIO(data)) as shown:
        assert shown.size == (1568, 523)
    moving = saved(drawn(), "WEBP", save_all=True, append_images=[drawn(colour="blue")])
    assert fit(moving, "image/webp", 1568)[0] != moving


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (lambda: b"", "P201"),
        (lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>", "P204"),
        (lambda: saved(drawn(), "TIFF"), "P204"),
        (lambda: b"%PDF-1.7", "P204"),
        (lambda: saved(drawn((400, 400)), "PNG")[:300], "P203"),
        (lambda: saved(drawn((400, 400)), "JPEG")[:2000], "P203"),
        (lambda: b"\x89PNG\r\n\x1a\n" + b"x" * 50, "P203"),
    ],
)
async def test_what_cannot_be_shown_is_refused_with_its_reason(make: Callable[[], bytes], code: str) -> None:
    with pytest.raises(InputError) as caught:
        await read(make())
    assert caught.value.code == code


async def test_a_picture_with_too_many_pixels_is_refused_before_it_is_unpacked() -> None:
    header = b"IHDR" + struct.pack(">II5B", 30_000, 30_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n\0\0\0\x0d" + header + struct.pack(">I", zlib.crc32(header)) + b"\0\0\0\x10IDAT"
    cases: list[tuple[dict[str, Any], bytes]] = [({}, bomb), ({"max_pixels": 3199}, saved(drawn(), "PNG"))]
    for options, data in cases:
        with pytest.raises(InputError) as caught:
            await read(data, **options)
        assert caught.value.code == "P240"
    assert (await read(saved(drawn(), "PNG"), max_pixels=3200))[0].width == 80


def pictures_of(request: Request) -> list[Shown]:
    return [part for message in request.messages for part in message.parts if isinstance(part, Shown)]


async def test_questions_about_a_picture_are_never_more_than_asked_for_and_never_twice_the_same() -> None:
    image, blobs = await read(saved(drawn((2000, 1000)), "PNG"))
    asked = ["What is black?", " ", "what is BLACK", "What is red?", "How many bars?", "Why?"]
    model = ScriptedModel([[{"question": text} for text in asked]])
    made = await perform(ask_image.using(resize_max=500), image, blobs=blobs, model=model)
    texts = ["What is black?", "What is red?", "How many bars?"]
    assert made == [Question(text=text, ordinal=n, image=image.blob) for n, text in enumerate(texts)]
    (shown,) = pictures_of(model.requests[0])
    with pillow.open(io.BytesIO(shown.data)) as sent:
        assert sent.size == (500, 250)
    assert "3 questions" in model.requests[0].messages[-1].text


async def test_prose_never_becomes_questions_about_a_picture() -> None:
    image, blobs = await read(saved(drawn(), "PNG"))
    with pytest.raises(InvalidOutput):
        await perform(ask_image, image, blobs=blobs, model=ScriptedModel(["What is it?\nWho is it?", "I see a disc."]))


@pytest.mark.parametrize("count", [0, 11])
def test_a_picture_is_asked_one_to_ten_questions(count: int) -> None:
    with pytest.raises(WorkflowError):
        ask_image.using(count=count)


async def test_an_answer_about_a_picture_knows_its_picture_and_keeps_the_form_of_its_question() -> None:
    image, blobs = await read(saved(drawn(), "PNG"))
    question = Question(text="What colour is the bar?", image=image.blob, label=("shapes",))
    model = ScriptedModel([{"answer": "It is red."}])
    (made,) = await perform(answer_image, question, image, blobs=blobs, model=model)
    assert made == Example(
        question=question.text, answer="It is red.", image=image.blob, model="scripted", label=("shapes",)
    )
    assert [picture.media_type for picture in pictures_of(model.requests[0])] == ["image/png"]
    closed = question.model_copy(update={"answer_type": "label", "labels": ("red", "blue")})
    model = ScriptedModel([{"answer": "green"}, {"answer": "Red"}])
    (made,) = await perform(answer_image, closed, image, blobs=blobs, model=model)
    assert isinstance(made, Example)
    assert (made.answer, made.answer_type) == ("red", "label")
    assert len(pictures_of(model.requests[1])) == 1  # it sees the picture when it is asked again
    assert await perform(answer_image, question, image, blobs=blobs, model=ScriptedModel([{"answer": None}])) == []
