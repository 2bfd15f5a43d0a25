import asyncio
import hashlib
import os
import subprocess
import time

import pytest

from gristmill.data.blobs import Blobs
from gristmill.errors import EnvironmentProblem, InputError


@pytest.fixture
def blobs(tmp_path):
    return Blobs(tmp_path / "blobs", reserve=0)


def files_below(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


async def test_what_is_written_is_read_back_under_its_sha256(blobs):
    data = "Körner 谷物 🌾".encode() * 1000
    digest = await blobs.write(data)
    assert digest == hashlib.sha256(data).hexdigest()
    assert blobs.exists(digest)
    assert blobs.path(digest).parent.name == digest[:2]
    assert await blobs.read(digest) == data
    assert await blobs.read(await blobs.write(b"")) == b""


async def test_a_file_is_copied_in_with_its_size(blobs, tmp_path):
    path = tmp_path / "large.bin"
    path.write_bytes(os.urandom(3_500_000))
    digest, size = await blobs.write_file(path)
    assert size == 3_500_000
    assert await blobs.read(digest) == path.read_bytes()
    assert await blobs.write_file(path) == (digest, size)
    assert len(files_below(blobs.folder)) == 1


async def test_many_writers_of_the_same_content_leave_one_sound_file(tmp_path):
    stores = [Blobs(tmp_path / "blobs", reserve=0) for _ in range(8)]
    data = os.urandom(200_000)
    digests = await asyncio.gather(*(store.write(data) for store in stores for _ in range(4)))
    assert len(set(digests)) == 1
    assert await stores[0].read(digests[0]) == data
    assert files_below(tmp_path / "blobs") == [stores[0].path(digests[0])]


async def test_missing_and_damaged_content_are_told_apart(blobs):
    with pytest.raises(EnvironmentProblem, match="missing") as missing:
        await blobs.read("0" * 64)
    assert missing.value.code == "F201"
    digest = await blobs.write(b"flour")
    blobs.path(digest).write_bytes(b"dust!")
    with pytest.raises(EnvironmentProblem, match="damaged") as damaged:
        await blobs.read(digest)
    assert damaged.value.code == "F202"


async def test_writing_again_repairs_a_damaged_file(blobs, tmp_path):
    digest = await blobs.write(b"flour")
    blobs.path(digest).write_bytes(b"dust!")
    assert await blobs.write(b"flour") == digest
    assert await blobs.read(digest) == b"flour"
    blobs.path(digest).write_bytes(b"")
    (tmp_path / "flour").write_bytes(b"flour")
    await blobs.write_file(tmp_path / "flour")
    assert await blobs.read(digest) == b"flour"


@pytest.mark.parametrize("digest", ["", "../../etc/passwd", "A" * 64, "0" * 63])
def test_only_a_sha256_is_a_path(blobs, digest):
    with pytest.raises(ValueError, match="sha256"):
        blobs.path(digest)


async def test_a_file_that_changes_while_it_is_read_is_refused(blobs, tmp_path):
    path = tmp_path / "log.txt"
    path.write_bytes(b"x" * 64_000_000)
    writing = asyncio.create_task(blobs.write_file(path))
    while not writing.done():
        with path.open("ab") as file:
            file.write(b"more")
        await asyncio.sleep(0.001)
    with pytest.raises(InputError, match="changed while it was read") as error:
        await writing
    assert error.value.code == "F108"
    assert files_below(blobs.folder) == []


async def test_what_is_not_a_regular_file_is_refused_without_waiting(blobs, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name, code in (("pipe", "F105"), ("nothing", "F101")):
        with pytest.raises(InputError) as error:
            await blobs.write_file(tmp_path / name)
        assert error.value.code == code
    with pytest.raises(InputError):
        await blobs.write_file(tmp_path)


async def test_the_reserve_is_kept_free(tmp_path):
    blobs = Blobs(tmp_path / "blobs", reserve=1 << 60)
    (tmp_path / "file").write_bytes(b"flour")
    for write in (blobs.write(b"flour"), blobs.write_file(tmp_path / "file")):
        with pytest.raises(EnvironmentProblem, match="not enough space") as error:
            await write
        assert error.value.code == "F203"
        assert error.value.hint
    assert files_below(blobs.folder) == []


@pytest.fixture
def small_disk(tmp_path):
    """A file system of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    mounted = subprocess.run(mount, capture_output=True, check=False)
    if mounted.returncode != 0:
        pytest.skip("only root can mount a small disk")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


async def test_a_disk_that_fills_up_half_way_leaves_nothing_behind(small_disk, tmp_path):
    blobs = Blobs(small_disk, reserve=0)
    data = os.urandom(2_000_000)
    (tmp_path / "file").write_bytes(data)
    for write in (blobs.write(data), blobs.write_file(tmp_path / "file")):
        with pytest.raises(EnvironmentProblem, match="no space left") as error:
            await write
        assert error.value.code == "F203"
        assert files_below(small_disk) == []
    assert await blobs.read(await blobs.write(data[:500_000])) == data[:500_000]


async def test_leftovers_of_killed_writers_go_after_a_day(blobs):
    old, young = blobs.folder / "partial" / "old", blobs.folder / "partial" / "young"
    for path in (old, young):
        path.write_bytes(b"half")
    yesterday = time.time() - 25 * 3600
    os.utime(old, (yesterday, yesterday))
    Blobs(blobs.folder)
    assert not old.exists()
    assert young.exists()


def test_a_folder_that_cannot_be_made_is_an_environment_problem(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(EnvironmentProblem) as error:
        Blobs(tmp_path / "file" / "blobs")
    assert error.value.code == "F204"
