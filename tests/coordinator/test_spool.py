import contextlib
import logging
import os
import resource
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from lightning_fed.coordinator.spool import Spool
from lightning_fed.errors import StoreError
from lightning_fed.protocol.messages import CHUNK_BYTES
from lightning_fed.protocol.streams import Assembly, chunk_count, chunk_of

NBYTES = 3 * CHUNK_BYTES + 12


@pytest.fixture
def data():
    return memoryview(np.random.default_rng(0).bytes(NBYTES))


def files_of(folder):
    """Files of a folder that this process has open, by number; those without a name are there, too."""
    found = []
    for fd in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # what listed them is closed by now
            if fd.readlink().parent == folder:
                found.append(int(fd.name))
    return found


def whole(upload):
    return b"".join(bytes(piece) for piece in upload.pieces())


def put(assembly, data, indices):
    for index in indices:
        assembly.add(index, chunk_of(data, index))


def test_an_upload_lies_in_a_file_that_nobody_else_finds_and_that_is_gone_with_it(tmp_path, data):
    spool = Spool(tmp_path)
    upload = Assembly(NBYTES, spool.room(NBYTES))
    put(upload, data, [2, 0, 3, 1])
    assert upload.complete
    assert len(files_of(tmp_path)) == 1 and not list(tmp_path.iterdir())
    assert upload.data == data
    assert whole(upload) == data
    assert upload.read(CHUNK_BYTES - 5, 10) == data[CHUNK_BYTES - 5 : CHUNK_BYTES + 5]
    del upload
    assert files_of(tmp_path) == [] and spool.files == 0


def test_a_small_upload_takes_no_file(tmp_path):
    upload = Assembly(1000, Spool(tmp_path).room(1000))
    upload.add(0, bytes(1000))
    assert files_of(tmp_path) == []
    assert upload.data == bytes(1000)


def test_many_uploads_that_hardly_move_leave_open_files_to_the_store(tmp_path):
    spool = Spool(tmp_path)
    uploads = [Assembly(NBYTES, spool.room(NBYTES)) for _ in range(40)]
    for upload in uploads:
        upload.add(0, bytes(CHUNK_BYTES))
    assert len(files_of(tmp_path)) == 16


def test_uploads_leave_the_next_models_room_on_a_small_disk(tmp_path, monkeypatch):
    free = 12 * NBYTES
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=free))
    spool = Spool(tmp_path)
    uploads = [Assembly(NBYTES, spool.room(NBYTES)) for _ in range(8)]
    for upload in uploads:
        upload.add(0, bytes(CHUNK_BYTES))
    # What is not written yet counts as written: five of them, and eight times as much beside the last.
    assert len(files_of(tmp_path)) == spool.files == 5
    del uploads, upload
    assert spool.files == 0


def test_a_disk_that_is_full_in_the_middle_of_a_chunk_loses_no_upload(tmp_path, data, caplog):
    spool = Spool(tmp_path)
    uploads = [Assembly(NBYTES, spool.room(NBYTES)) for _ in range(2)]
    put(uploads[0], data, [0])
    before, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (CHUNK_BYTES + CHUNK_BYTES // 2, hard))
    try:
        with caplog.at_level(logging.WARNING):
            put(uploads[0], data, [1, 2])
            put(uploads[1], data, [3, 2, 1, 0])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (before, hard))
    put(uploads[0], data, [3])
    assert all(upload.complete and upload.data == data and whole(upload) == data for upload in uploads)
    (said,) = caplog.messages
    assert "File too large" in said and "in memory" in said and "Make room on the disk" in said
    assert files_of(tmp_path) == [] and spool.files == 0


def test_a_folder_that_is_away_loses_no_upload(tmp_path, data, caplog):
    upload = Assembly(NBYTES, Spool(tmp_path / "away").room(NBYTES))
    put(upload, data, range(chunk_count(NBYTES)))
    assert upload.data == data
    assert "No such file or directory" in caplog.text


def test_an_upload_that_the_disk_has_lost_is_no_update(tmp_path, data):
    upload = Assembly(NBYTES, Spool(tmp_path).room(NBYTES))
    put(upload, data, range(chunk_count(NBYTES)))
    (fd,) = files_of(tmp_path)
    os.ftruncate(fd, NBYTES - 1)
    with pytest.raises(StoreError, match=r"cannot be read from the store's disk.*Nothing was lost"):
        list(upload.pieces())
