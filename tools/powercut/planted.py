"""Bugs of durability to be planted in the program that is recorded: each one must be found by a power cut."""

from __future__ import annotations

from tools.mutants.catalogue import MUTANTS
from tools.mutants.planting import Edit, Mutant

_ENGINE = "store.lmdb_engine"
_SYNCED = "        metasync=True,\n        sync=True,\n"
_RENAMED = "            temporary.rename(path)\n"

STORE = (
    Mutant(
        "commits-without-sync",
        "LMDB's MDB_NOSYNC, offered by many bindings as the fast mode",
        "a commit returns while its pages are in memory only",
        (Edit(_ENGINE, _SYNCED, "        metasync=True,\n        sync=False,\n"),),
    ),
    Mutant(
        "commits-without-metasync",
        "LMDB's MDB_NOMETASYNC",
        "the pages are synced, the meta page that makes them count is not",
        (Edit(_ENGINE, _SYNCED, "        metasync=False,\n        sync=True,\n"),),
    ),
    Mutant(
        "created-under-its-name",
        "LMDB creates its file in place, and is not safe while it does",
        "a crash in the middle leaves a directory under the real name that cannot be opened",
        (
            Edit(_ENGINE, "temporary = path.with_name(path.name + TEMPORARY_SUFFIX)", "temporary = path"),
            Edit(_ENGINE, "            undo.callback(shutil.rmtree, temporary, ignore_errors=True)\n", ""),
        ),
    ),
    Mutant(
        "parent-not-synced",
        "the rename is durable only by a sync of the directory around it",
        "an environment whose creation was reported is gone after a crash",
        (Edit(_ENGINE, "            temporary.rename(path)\n            sync_directory(path.parent)\n", _RENAMED),),
    ),
    Mutant(
        "acknowledged-before-the-commit",
        "replies before durable: the commonest bug of young Raft stores",
        "a commit is reported when its job has run, not when its transaction has ended",
        (
            Edit(
                "store.writer",
                "            job.step.commit.reach()\n",
                "            job.step.commit.reach()\n"
                "            self._done.append((job.on_done, result))\n"
                "            self._call_soon(self._report)\n",
            ),
            Edit(
                "store.writer",
                "            self._done.append((job.on_done, result))\n            if not self._call_soon(self._report):\n"
                "                return\n",
                "",
            ),
        ),
    ),
)

PEER = tuple(
    MUTANTS[name]
    for name in (
        "vote-before-its-save",
        "candidacy-before-its-save",
        "acknowledged-before-its-save",
        "purge-past-the-durable-applied",
        "purge-without-its-base",
        "intent-dropped-at-start",
    )
)
"""Bugs of the catalogue that only a crash shows."""

PLANTED: dict[str, Mutant] = {mutant.name: mutant for mutant in (*STORE, *PEER)}
TARGET_OF = dict.fromkeys((mutant.name for mutant in STORE), "store") | dict.fromkeys(
    (mutant.name for mutant in PEER), "peer"
)
"""Which program shows each. (A peer has a store, and shows those of the store, too.)"""
