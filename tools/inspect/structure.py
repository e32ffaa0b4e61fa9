"""The files of a peer's directory, before LMDB sees them: are they there, and could reading them hurt or mislead?

LMDB trusts what it maps: a truncated file kills the process, and a meta page with a wrong transaction number makes it
take the state of one commit earlier for the latest. Both are seen here, by reading the file as a file.
"""

from __future__ import annotations

import os
import shutil
import struct
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

from store.directory import DATA_FILE, has_owner, read_shape
from store.engine import CannotOpen, StoreError
from store.lmdb_file import online_copy, verify_pages
from store.lmdb_metas import check_succession

PROBLEMS_MAX = 10
"""How many problems of one file are told; one flipped bit can make hundreds."""


class NotThere(CannotOpen):
    """Nothing to inspect: no peer's directory, a file is missing, or this user may not read it. Not damage."""


def environments(directory: Path) -> dict[str, Path]:
    """The environments of a peer's directory by kind: "log" (a kvsrv has none) and "state". Raises `NotThere`."""
    if not directory.is_dir():
        raise NotThere(f"{directory} is no directory")
    found = {kind: directory / kind for kind in ("log", "state") if (directory / kind).is_dir()}
    if "state" not in found:
        raise NotThere(f"{directory} is no peer's directory: it has no state/")
    for path in found.values():
        file = path / DATA_FILE
        if not file.is_file():
            raise NotThere(f"{path} holds no database: {DATA_FILE} is missing")
        if not os.access(file, os.R_OK) or not os.access(path, os.X_OK):
            raise NotThere(f"{file} may not be read by this user")
    return found


def peer_directories(paths: Iterable[Path]) -> list[Path]:
    """The peers' directories that are meant: a cluster's directory stands for those in it, and a peer's config file, which
    `server-*` names too, for the directory beside it. What is neither is left as it is, for the caller to stumble over."""
    found: dict[Path, None] = {}
    for path in paths:
        inside = sorted(child.parent for child in path.glob("*/state")) if not (path / "state").is_dir() else []
        beside = path.with_suffix("")
        own = [beside] if path.suffix == ".toml" and (beside / "state").is_dir() else [path]
        found |= dict.fromkeys(inside or own)
    return list(found)


def structure_findings(path: Path) -> list[str]:
    """What is wrong with the pages of an environment that nobody has open for writing; nothing for one in use, whose
    file changes under the reader: see `live_findings`."""
    if has_owner(path):
        return []
    try:
        read_shape(path)
        check_succession(path)
        found = verify_pages(path)
    except (StoreError, OSError) as error:
        found = [str(error)]
    except (struct.error, ValueError, IndexError, KeyError, OverflowError, RecursionError) as error:
        found = [f"{path / DATA_FILE} cannot be walked: {type(error).__name__}: {error}"]
    if found and has_owner(path):  # its peer was started meanwhile
        return []
    return _told(path, found)


def live_findings(path: Path) -> list[str]:
    """What is wrong with the pages of an environment in use, by an online copy of it in the directory for temporary files.
    Raises `NotThere` if there is no room for that."""
    with TemporaryDirectory(prefix="shardkv-inspect-") as folder:
        needed, room = read_shape(path).needed_bytes, shutil.disk_usage(folder).free
        if needed > room:
            raise NotThere(f"{path}: an online copy needs {needed} bytes, {folder} has {room}: set TMPDIR")
        online_copy(path, Path(folder))
        return _told(path, verify_pages(Path(folder)))


def _told(path: Path, found: list[str]) -> list[str]:
    more = [f"... and {len(found) - PROBLEMS_MAX} more"] if len(found) > PROBLEMS_MAX else []
    return [f"{path.name}/: {problem}" for problem in found[:PROBLEMS_MAX] + more]
