"""Reading traces: what strace writes becomes the steps that were made."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.powercut.disk import Disk
from tools.powercut.events import BEGIN, END, Mark, Names, Resize, Step, Sync, Talk, Write
from tools.powercut.recording import recorded
from tools.powercut.strace import BadTrace

ROOT = Path("/r")


def hexed(text: str | bytes) -> str:
    data = text.encode() if isinstance(text, str) else text
    return '"' + "".join(f"\\x{byte:02x}" for byte in data) + '"'


def steps(*lines: str) -> list[Step]:
    return list(recorded((f"{line}\n" for line in lines), ROOT, Path("/marks")).steps)


def begun(*lines: str) -> list[object]:
    return [step.action for step in steps(*lines) if step.moment is BEGIN]


OPEN = f"1 openat(AT_FDCWD, {hexed('/r/a')}, O_RDWR|O_CREAT|O_CLOEXEC, 0644) = 5"
SYNCED = f"1 openat(AT_FDCWD, {hexed('/r/a')}, O_WRONLY|O_DSYNC|O_CLOEXEC) = 6"


def test_writes_know_their_file_their_offset_and_whether_they_are_synced() -> None:
    found = begun(
        OPEN,
        SYNCED,
        f"1 pwrite64(5, {hexed('abc')}, 3, 4096) = 3",
        f"1 pwrite64(6, {hexed('m')}, 1, 16)     = 1",
        "1 lseek(5, 8192, SEEK_SET)         = 8192",
        f"1 writev(5, [{{iov_base={hexed('x')}, iov_len=1}}, {{iov_base={hexed('yz')}, iov_len=2}}], 2) = 3",
        f"1 write(5, {hexed('more')}, 4)   = 4",
        "1 fdatasync(5)                     = 0",
        "1 ftruncate(5, 8192)               = 0",
        f"1 truncate({hexed('/r/a')}, 12288) = 0",
    )[2:]
    assert found == [
        Write(1, 4096, b"abc"),
        Write(1, 16, b"m", synced=True),
        Write(1, 8192, b"xyz"),
        Write(1, 8195, b"more"),
        Sync(1),
        Resize(1, 8192),
        Resize(1, 12288),
    ]


def test_a_short_write_wrote_what_its_result_says_and_a_failed_one_nothing() -> None:
    found = begun(OPEN, f"1 write(5, {hexed('abcd')}, 4) = 2", f"1 write(5, {hexed('e')}, 1) = -1 ENOSPC (No space)")
    assert found[2:] == [Write(1, 0, b"ab")]


def test_a_call_that_another_thread_interrupts_ends_where_it_is_resumed() -> None:
    found = steps(
        OPEN,
        "1 clone3({flags=CLONE_VM|CLONE_FILES, stack=0x7f}, 88) = 2",
        "1 fdatasync(5 <unfinished ...>",
        f"2 pwrite64(5, {hexed('abc')}, 3, 0) = 3",
        "1 <... fdatasync resumed>)          = 0",
    )[-4:]
    assert [(step.moment, type(step.action)) for step in found] == [
        (BEGIN, Sync),
        (BEGIN, Write),
        (END, Write),
        (END, Sync),
    ]


def test_a_write_that_the_end_of_the_recording_cut_off_may_have_happened() -> None:
    found = steps(OPEN, f"1 pwrite64(5, {hexed('abc')}, 3, 0 <unfinished ...>")
    assert found[-1] == Step(1, BEGIN, Write(1, 0, b"abc"))


def test_a_number_that_is_closed_while_another_thread_opens_is_the_new_file() -> None:
    found = begun(
        OPEN,
        "1 clone(child_stack=0x7f, flags=CLONE_VM|CLONE_FILES) = 2",
        f"1 openat(AT_FDCWD, {hexed('/r/b')}, O_RDWR|O_CREAT, 0644 <unfinished ...>",
        "2 close(5)                         = 0",
        "1 <... openat resumed>)            = 5",
        f"1 pwrite64(5, {hexed('b')}, 1, 0) = 1",
    )
    assert found[-1] == Write(2, 0, b"b")


def test_a_file_keeps_its_identity_when_its_directory_is_renamed() -> None:
    trace = [
        f"1 mkdir({hexed('/r/d.new')}, 0777) = 0",
        f"1 openat(AT_FDCWD, {hexed('/r/d.new/f')}, O_RDWR|O_CREAT, 0644) = 5",
        f"1 rename({hexed('/r/d.new')}, {hexed('/r/d')}) = 0",
        f"1 openat(AT_FDCWD, {hexed('/r/d/f')}, O_RDWR) = 6",
        f"1 pwrite64(6, {hexed('b')}, 1, 0) = 1",
        f"1 openat(AT_FDCWD, {hexed('/r/d')}, O_RDONLY|O_DIRECTORY) = 7",
        f"1 unlinkat(7, {hexed('f')}, 0) = 0",
    ]
    assert begun(*trace)[4:] == [Names(0, (("d.new", None), ("d", 1))), Write(2, 0, b"b"), Names(1, (("f", None),))]
    disk = Disk()
    for step in steps(*trace[:-1]):
        disk.take(step)
    assert set(disk.left({}).entries) == {"d", "d/f"}


def test_marks_and_sockets_are_told() -> None:
    found = steps(
        f"1 openat(AT_FDCWD, {hexed('/marks')}, O_WRONLY|O_CREAT|O_APPEND, 0644) = 4",
        f"1 write(4, {hexed('one' + chr(10) + 'two' + chr(10))}, 8) = 8",
        "1 accept4(3, {sa_family=AF_INET, sin_port=htons(1)}, [16], SOCK_CLOEXEC) = 9",
        f"1 sendto(9, {hexed('hello')}, 5, 0, NULL, 0) = 2",
        f"1 recvfrom(9, {hexed('back')}, 65536, 0, NULL, NULL) = 4",
    )
    told = [step.action for step in found if step.moment is BEGIN]
    assert told == [Mark("one"), Mark("two"), Talk(1, True, b""), Talk(1, True, b"he"), Talk(1, False, b"back")]


def test_what_is_not_modelled_is_refused() -> None:
    for lines, words in (
        ((OPEN, "1 mmap(NULL, 4096, PROT_READ|PROT_WRITE, MAP_SHARED, 5, 0) = 0x7f"), "through memory"),
        ((OPEN, "1 sync_file_range(5, 0, 0, 2) = 0"), "sync_file_range"),
        ((OPEN, f"1 link({hexed('/r/a')}, {hexed('/r/b')}) = 0"), "link"),
        ((OPEN, f"1 rename({hexed('/r/a')}, {hexed('/elsewhere')}) = 0"), "not modelled"),
        ((OPEN, f"7 openat(AT_FDCWD, {hexed('/r/a')}, O_RDWR) = 3"), "another process"),
        (("1 fsync(5)",), "no result"),
        ((f"1 openat(AT_FDCWD, {hexed('/r/old')}, O_RDWR) = 5",), "before the recording"),
        (("what is this",), "line 1"),
    ):
        with pytest.raises(BadTrace, match=words):
            steps(*lines)
