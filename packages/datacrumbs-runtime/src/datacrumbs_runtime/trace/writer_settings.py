"""How a trace file is written, and what became of its lines."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WriterSettings:
    """How a trace file is written.

    Attributes:
        compression_level: 0 (fast) to 3 (small) of igzip.
        member_bytes: A gzip member is closed when it holds this much text.
        member_age_s: It is closed this long after its first line at the latest.
        waiting_bytes: Compressed text that may wait for room on the disk.
        retry_s: How often the disk is asked again.
        create_wait_s: How long the other process may take to begin, and the file system to make the
            file.
        last_wait_s: How long the end of a run waits for a slow disk. What it has not taken by then
            is left to the other process.
        other_process: Whether another process writes, so that the file is whole if this one is
            killed in the middle of a write.
    """

    compression_level: int = 1
    member_bytes: int = 1 << 20
    member_age_s: float = 0.5
    waiting_bytes: int = 64 << 20
    retry_s: float = 1.0
    create_wait_s: float = 30.0
    last_wait_s: float = 10.0
    other_process: bool = True


@dataclass(frozen=True, slots=True)
class WriterCounters:
    """What became of the lines.

    Attributes:
        text_bytes: Bytes of lines taken.
        file_bytes: Size of the file.
        members: gzip members in the file.
        waiting_bytes: Compressed, waiting for room on the disk.
        dropped_events: Lines of calls that never reached the file.
        dropped_bytes: Text that never reached the file.
        trouble: Why what is written waits in memory now, or None.
    """

    text_bytes: int
    file_bytes: int
    members: int
    waiting_bytes: int
    dropped_events: int
    dropped_bytes: int
    trouble: str | None = None
