"""The C library's functions name the same files as the system calls below them."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
from comparison import anonymous
from daemon_recorder import DaemonRecorder
from daemon_site import ALICE, Site, new_site
from three_modes import POSIX, Run
from trace_file import Event
from workloads import PYTHON

from datacrumbs_utils.recording import probes

pytestmark = pytest.mark.kernel

LIBC = r"""
capture_probes:
  - name: LIBC
    probe: uprobe
    type: binary
    file: soname:libc.so.6
    regex: "(open|openat|fstat|fstatat|pread|pwrite|stat|lstat)(64)?|close|rename|renameat2|link|\
      symlink|unlink|rmdir|mkdir|chdir"
"""
# Which must be among the calls, so that not only the easy ones are; as they are without "64".
NAMES = {"open", "pread", "pwrite", "fstat", "fstatat", "rename", "renameat2", "link", "symlink"}


@pytest.fixture
def site() -> Iterator[Site]:
    with new_site() as made:
        yield made


def test_files_of_both_layers_are_equal(site: Site, programs: Path) -> None:
    configuration = site.shared / "libc.yaml"
    configuration.write_text(LIBC)
    categories = (*probes.load(str(configuration)).probe_file.categories, *POSIX)
    recorder = DaemonRecorder(site, ALICE, [Run("traced", categories)])
    names = recorder.directory / "names"
    recording = recorder([PYTHON, programs / "other_names.py", names], cwd=recorder.directory)
    assert recording.status == 0

    above, below = layers(recording.trace.events)
    compared: Counter[str] = Counter()
    for thread, events in above.items():
        for event in events:
            found = [files_of(call) for call in below[thread] if is_within(call, event)]
            # Two where one ended in the microsecond in which the next began.
            assert 1 <= len(found) <= 2, event
            assert files_of(event) in found, event
            compared[event.name.removesuffix("64")] += 1
    assert compared.keys() >= NAMES
    assert compared.total() > 500


def is_within(call: Event, event: Event) -> bool:
    end = event.start_us + event.duration_us
    return event.start_us <= call.start_us <= call.start_us + call.duration_us <= end


def layers(events: list[Event]) -> tuple[dict[int, list[Event]], dict[int, list[Event]]]:
    """Return the calls of both layers by thread, in order."""
    above: dict[int, list[Event]] = defaultdict(list)
    below: dict[int, list[Event]] = defaultdict(list)
    for event in sorted(events, key=lambda event: (event.start_us, event.category == "POSIX")):
        (above if event.category == "LIBC" else below)[event.thread].append(event)
    return above, below


def files_of(event: Event) -> tuple[str | None, str | None]:
    return anonymous(event.file), anonymous(event.second_file)
