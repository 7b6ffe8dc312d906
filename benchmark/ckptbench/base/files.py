"""Files written whole or not at all, and JSON that knows whether it is whole."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from ckptbench.base.digests import digest
from ckptbench.base.errors import InputError


def make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        raise InputError(f"cannot make the folder {path}: {error.strerror}") from None


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[IO[bytes]]:
    """Write a file whole or not at all; a full disk is one clear sentence.

    Raises
    ------
    InputError
        If the disk is full or not writable. What was stored before is untouched.
    """
    make_folder(path.parent)
    # Not a tempfile: those are their owner's alone, and results are for everyone to read.
    part = path.with_name(f".{uuid.uuid4().hex}.part")
    try:
        with part.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException as error:
        part.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise InputError(
                f"the disk is full: cannot write {path}; free space and rerun, completed work is kept"
            ) from None
        raise


def write_text(path: Path, text: str) -> None:
    with atomic(path) as file:
        file.write(text.encode())


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write JSON with a digest of itself, by which ``read_json`` knows whether it is whole."""
    write_text(path, json.dumps({**content, "digest": digest(content)}, default=str))


def read_json(path: Path) -> dict[str, Any]:
    """What ``write_json`` wrote; a ValueError where the file is damaged."""
    content = json.loads(path.read_text())
    if not isinstance(content, dict) or content.pop("digest", "") != digest(content):
        raise ValueError("its digest does not fit")
    return content


def checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
