"""What was acknowledged is there, whatever happens."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millrace.errors import AlreadyRunning, Unavailable
from serving.prediction_log.journal import Journal, JournalFull, Position

MIB = 1 << 20


def append(journal: Journal, *groups: bytes) -> None:
    async def all_at_once() -> None:
        await asyncio.gather(*(journal.append(lines) for lines in groups))

    asyncio.run(all_at_once())


def drain(journal: Journal, most_bytes: int = MIB) -> list[bytes]:
    place, lines = journal.start, []
    while (read := journal.read(place, most_bytes))[0]:
        lines += read[0].splitlines()
        place = read[1]
    return lines


def test_lines_come_back_in_order_after_a_restart(tmp_path: Path) -> None:
    journal = Journal(tmp_path, MIB)
    append(journal, b"1\n", b"2\n3\n")
    append(journal, b"4\n")
    journal.close()

    again = Journal(tmp_path, MIB)
    append(again, b"5\n")

    assert drain(again) == [b"1", b"2", b"3", b"4", b"5"]
    again.close()


@settings(max_examples=20, deadline=None)
@given(sizes=st.lists(st.integers(1, 60), min_size=1, max_size=40), most=st.integers(1, 200))
def test_however_it_is_read_every_line_comes_once(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], most: int
) -> None:
    """Segments of a hundred bytes, batches of any size."""
    journal = Journal(tmp_path_factory.mktemp("journal"), 1 << 20)
    journal._segment_bytes = 100
    lines = [b"%d" % place + b"x" * size for place, size in enumerate(sizes)]
    for line in lines:
        append(journal, line + b"\n")

    assert drain(journal, most) == lines
    journal.close()


def test_a_torn_last_line_was_never_acknowledged_and_goes(tmp_path: Path) -> None:
    journal = Journal(tmp_path, MIB)
    append(journal, b"whole\n")
    journal.close()
    with (tmp_path / "000000000001.jsonl").open("ab") as stream:
        stream.write(b"to")

    again = Journal(tmp_path, MIB)

    assert drain(again) == [b"whole"]
    again.close()


def test_a_full_journal_refuses_until_it_was_read(tmp_path: Path) -> None:
    journal = Journal(tmp_path, 400)
    for _ in range(4):
        append(journal, b"x" * 100 + b"\n")

    with pytest.raises(JournalFull, match="404 of 400 bytes"):
        append(journal, b"one more\n")
    place = journal.start
    while (read := journal.read(place, 150))[0]:
        place = read[1]
        journal.drop_before(place)
    append(journal, b"one more\n")

    assert journal.size_bytes <= 220
    assert len(list(tmp_path.glob("*.jsonl"))) <= 2
    journal.close()


def test_a_disk_that_refuses_fails_the_group_and_keeps_the_rest(tmp_path: Path) -> None:
    journal = Journal(tmp_path, MIB)
    append(journal, b"kept\n")
    healthy, journal._file = journal._file, os.open("/dev/full", os.O_WRONLY)

    with pytest.raises(Unavailable, match="cannot be written"):
        append(journal, b"lost, and said so\n")
    os.close(journal._file)
    journal._file = healthy
    append(journal, b"after\n")

    assert drain(journal) == [b"kept", b"after"]
    journal.close()


def test_two_processes_cannot_share_a_journal(tmp_path: Path) -> None:
    journal = Journal(tmp_path, MIB)

    with pytest.raises(AlreadyRunning, match="another prediction log"):
        Journal(tmp_path, MIB)
    journal.close()


def test_only_closed_segments_before_the_place_are_dropped(tmp_path: Path) -> None:
    journal = Journal(tmp_path, MIB)
    journal._segment_bytes = 2
    for line in (b"1\n", b"2\n", b"3\n"):
        append(journal, line)

    journal.drop_before(Position(2, 1))

    assert drain(journal) == [b"2", b"3"]
    journal.close()
