"""Finished gzip members that wait for room on the disk, oldest first."""

from collections import deque
from dataclasses import dataclass

from isal import igzip_lib

from datacrumbs_runtime.trace.members import FIRST_LINE, calls_in, metadata_of


@dataclass(frozen=True, slots=True)
class _Member:
    compressed: bytes
    text_bytes: int
    # What is left of a member whose calls were dropped.
    is_metadata: bool = False

    @property
    def text(self) -> bytes:
        return igzip_lib.decompress(self.compressed, igzip_lib.DECOMP_GZIP)


@dataclass(frozen=True, slots=True)
class Rest:
    """What was in members that are given up.

    Attributes:
        calls: Lines of calls.
        text_bytes: All lines.
        metadata: Lines of metadata.
    """

    calls: int
    text_bytes: int
    metadata: bytes


class MemberQueue:
    """Members that wait.

    Args:
        compression_level: 0 (fast) to 3 (small) of igzip.
    """

    def __init__(self, compression_level: int) -> None:
        self._level = compression_level
        self._members: deque[_Member] = deque()
        self.compressed_bytes = 0
        self.dropped_calls = 0
        self.dropped_bytes = 0

    def __len__(self) -> int:
        return len(self._members)

    def compressed(self, first: int = 0) -> list[bytes]:
        """Return all members as they go into the file, from one of them on."""
        return [member.compressed for member in list(self._members)[first:]]

    def oldest(self) -> bytes:
        """Return the oldest member as it goes into the file."""
        return self._members[0].compressed

    def add(self, text: bytes) -> None:
        """Compress lines into a new member."""
        self._members.append(self._member(text))

    def begin_anew(self) -> None:
        """Let what waits be the beginning of a file."""
        self._members.appendleft(self._member(FIRST_LINE, is_metadata=True))

    def written(self, count: int) -> None:
        """Forget the oldest members."""
        for _ in range(count):
            self.compressed_bytes -= len(self._members.popleft().compressed)

    def drop_oldest(self, first: int) -> bool:
        """Drop the calls of the oldest member that has some; metadata goes last.

        Args:
            first: How many members have to stay, as they are being written.

        Returns:
            Whether there was anything to drop.
        """
        places = range(first, len(self._members))
        place = next((i for i in places if not self._members[i].is_metadata), first)
        if place >= len(self._members):
            return False
        member = self._members[place]
        del self._members[place]
        self.compressed_bytes -= len(member.compressed)
        text = member.text
        kept = b"" if member.is_metadata else metadata_of(text)
        self.dropped_calls += calls_in(text)
        self.dropped_bytes += member.text_bytes - len(kept)
        if kept:
            self._members.insert(place, self._member(kept, is_metadata=True))
        return True

    def give_up(self) -> Rest:
        """Forget all members and return what was in them; they count as dropped."""
        calls = text_bytes = 0
        metadata = []
        while self._members:
            text = self._members.popleft().text
            calls += calls_in(text)
            text_bytes += len(text)
            metadata.append(metadata_of(text))
        self.compressed_bytes = 0
        self.dropped_calls += calls
        self.dropped_bytes += text_bytes
        return Rest(calls, text_bytes, b"".join(metadata))

    def _member(self, text: bytes, *, is_metadata: bool = False) -> _Member:
        compressed = igzip_lib.compress(text, self._level, igzip_lib.COMP_GZIP)
        self.compressed_bytes += len(compressed)
        return _Member(compressed, len(text), is_metadata)
