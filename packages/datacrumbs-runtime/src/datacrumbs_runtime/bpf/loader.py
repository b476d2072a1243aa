"""The BPF object in the kernel: loaded with the settings of a run, and its maps.

Rings, counters, registrations and the profile are maps; this module is how the rest of the
runtime sees them. Attaching is the business of the attach modules.
"""

import array
import errno
import itertools
import mmap
import os
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from datacrumbs_runtime.beside import Beside
from datacrumbs_runtime.bpf import bpf_syscall, layout, misses, profile_map
from datacrumbs_runtime.bpf.libbpf import Map, Object, Program, possible_cpus
from datacrumbs_runtime.bpf.links import in_threads
from datacrumbs_runtime.bpf.rings import Ring, make_rings, ring_size
from datacrumbs_runtime.bpf.session_functions import object_for_this_kernel
from datacrumbs_runtime.bpf.soft_limits import raise_soft_limits
from datacrumbs_runtime.errors import KernelError

OBJECT_PATH = Path(__file__).with_name("datacrumbs.bpf.o")
ANY_UID = 0xFFFFFFFF
PAGE_BYTES = mmap.PAGESIZE
SYSCALL_RENAMES = 0x8000

# Programs that follow processes; every run has them.
PROCESS_PROGRAMS = ("dc_fork", "dc_exec", "dc_exit", "dc_task_rename")
_MODE_OFFSET: int = layout.Function.mode.offset  # type: ignore[attr-defined]


@dataclass(frozen=True, slots=True)
class LoadSettings:
    """What the programs are loaded with.

    Attributes:
        functions: Rows of the map ``functions``, struct dc_function each.
        tracepoints: Rows of the map ``tracepoints``, struct dc_tracepoint each.
        syscalls: Row in ``functions`` by system call number.
        aio: Row in ``functions`` by opcode of the requests within ``io_submit``.
        renaming_syscalls: Numbers of the system calls that give files other names, recorded or not.
        programs: The programs to load, and the attach type of those that can have several.
        owner_uid: Only processes of this user can register; None: of anybody.
        owner_cgroup: Only processes in this cgroup (its id) can register; None: anywhere.
        owner_hierarchy: The hierarchy of that cgroup; 0: the unified one (v2).
        all_processes: Whether processes of the owner register when they execute a program.
        publish_processes: Whether other programs are told which processes are recorded.
        string_bytes: Longest captured text.
        include_kernel_threads: Whether tracepoints also record threads of the kernel.
        ring_buffer_bytes: Size of the event ring of each CPU that is online.
        ring_buffers_total_bytes: All event rings together have at most this size.
        strings_buffer_bytes: Size of the ring of strings.
        profile_entries: How many sums fit between two readings of the profile.
        places: How many places share attachments; see :meth:`Loaded.share`.
    """

    functions: Sequence[bytes]
    programs: Mapping[str, int | None]
    tracepoints: Sequence[bytes] = ()
    syscalls: Mapping[int, int] = field(default_factory=dict)
    aio: Mapping[int, int] = field(default_factory=dict)
    renaming_syscalls: frozenset[int] = frozenset()
    owner_uid: int | None = None
    owner_cgroup: int | None = None
    owner_hierarchy: int = 0
    publish_processes: bool = False
    all_processes: bool = False
    string_bytes: int = 64
    include_kernel_threads: bool = False
    ring_buffer_bytes: int = 16 << 20
    ring_buffers_total_bytes: int = 1 << 30
    strings_buffer_bytes: int = 8 << 20
    profile_entries: int = 65536
    places: int = 0


@contextmanager
def _process_key(pid: int) -> Iterator[bytes]:
    """Give the key of a process in the map ``threads``, which user space asks by a descriptor."""
    process = os.pidfd_open(pid)
    try:
        yield struct.pack("=i", process)
    finally:
        os.close(process)


class Loaded:
    """The object in the kernel. Nothing is attached; :meth:`close` frees everything."""

    def __init__(self, settings: LoadSettings, object_path: Path = OBJECT_PATH) -> None:
        """Load the programs.

        Raises:
            KernelError: The kernel refused, with its reason.
        """
        if not object_path.exists():
            raise KernelError(
                f"{object_path}: not there",
                hint="compile it: python packages/datacrumbs-runtime/hatch_build.py",
            )
        self._settings = settings
        self._object_path = object_path
        self._objects: list[Object] = []
        self._programs: list[Program] = []
        self._memory: dict[str, mmap.mmap] = {}
        self.place_numbers = itertools.count()
        self.events: tuple[Ring, ...] = ()
        self._putting_rings: Beside | None = None
        raise_soft_limits()
        try:
            self._object = self._open(settings.programs)
            self._prepare(self._object)
            self._object.load()
            self._connect()
        except OSError as error:
            self.close()
            raise KernelError(f"{object_path.name}: {error.strerror}") from error
        except BaseException:
            self.close()
            raise

    def _open(self, programs: Mapping[str, int | None]) -> Object:
        opened = Object(self._object_path, object_for_this_kernel(self._object_path))
        self._objects.append(opened)
        for name, program in opened.programs.items():
            program.set_autoload(name in programs)
        for name, attach_type in programs.items():
            if attach_type is not None:
                opened.programs[name].set_attach_type(attach_type)
        self._programs += [opened.programs[name] for name in programs]
        return opened

    def _prepare(self, opened: Object) -> None:
        settings = self._settings
        table = array.array("H", bytes(2 * layout.MAX_SYSTEM_CALLS))
        for number, row in settings.syscalls.items():
            table[number] = row + 1
        for number in settings.renaming_syscalls:
            table[number] |= SYSCALL_RENAMES
        requests = array.array("H", bytes(2 * layout.AIO_OPCODES))
        for opcode, row in settings.aio.items():
            requests[opcode] = row + 1
        owner = ANY_UID if settings.owner_uid is None else settings.owner_uid
        variables = {
            "dc_syscall_functions": table.tobytes(),
            "dc_aio_functions": requests.tobytes(),
            "dc_owner_uid": struct.pack("=I", owner),
            "dc_owner_cgroup": struct.pack("=Q", settings.owner_cgroup or 0),
            "dc_owner_hierarchy": struct.pack("=I", settings.owner_hierarchy),
            "dc_all_processes": struct.pack("=I", settings.all_processes),
            "dc_publish_processes": struct.pack("=I", settings.publish_processes),
            "dc_string_bytes": struct.pack("=I", settings.string_bytes),
            "dc_include_kernel_threads": struct.pack("=I", settings.include_kernel_threads),
            "dc_keep_files": struct.pack("=I", bool(settings.tracepoints)),
            "dc_base_ns": struct.pack("=Q", time.monotonic_ns()),
        }
        for name, value in variables.items():
            opened.set_variable(name, value)
        maps = opened.maps
        maps["events"].set_max_entries(possible_cpus())
        maps["strings"].set_max_entries(ring_size(settings.strings_buffer_bytes))
        maps["functions"].set_max_entries(max(1, len(settings.functions)))
        maps["tracepoints"].set_max_entries(max(1, len(settings.tracepoints)))
        maps["profile"].set_max_entries(settings.profile_entries)
        maps["places"].set_max_entries(max(1, settings.places))

    def _connect(self) -> None:
        settings, maps = self._settings, self._object.maps
        control_map, offset, _ = self._object.variables["dc_control"]
        self._map_memory("control", control_map)
        self._control = layout.Control.from_buffer(self._memory["control"], offset)
        rows = self._map_memory("functions", maps["functions"])
        size = maps["functions"].value_bytes
        if any(len(row) != size for row in settings.functions):
            raise KernelError(f"{self._object_path.name}: a function's row has not {size} bytes")
        rows[: size * len(settings.functions)] = b"".join(settings.functions)
        for index, row in enumerate(settings.tracepoints):
            bpf_syscall.map_update(maps["tracepoints"].fd, struct.pack("=I", index), row)
        self.strings = Ring(maps["strings"].fd, maps["strings"].max_entries)
        self.events = make_rings(
            maps["events"].max_entries,
            settings.ring_buffer_bytes,
            settings.ring_buffers_total_bytes,
        )
        # The kernel waits after each until no program runs.
        rings = range(len(self.events))
        self._putting_rings = Beside(lambda: in_threads(rings, self._put_ring))

    def _put_ring(self, cpu: int) -> None:
        key, value = struct.pack("=I", cpu), struct.pack("=I", self.events[cpu].fd)
        bpf_syscall.map_update(self._object.maps["events"].fd, key, value)

    def _map_memory(self, name: str, source: Map) -> mmap.mmap:
        size = source.value_bytes * source.max_entries
        memory = mmap.mmap(source.fd, -(-size // PAGE_BYTES) * PAGE_BYTES)
        self._memory[name] = memory
        return memory

    def program_fd(self, name: str) -> int:
        """Return the descriptor of a loaded program; it belongs to this object."""
        return self._object.programs[name].fd

    def share(self, place: int, function: int) -> None:
        """Say which function is at a place whose attachment others share.

        Args:
            place: The key in the map ``places``: see bpf/places.bpf.h.
            function: Its row.
        """
        key, value = struct.pack("=Q", place), struct.pack("=I", function)
        bpf_syscall.map_update(self._object.maps["places"].fd, key, value)

    def load_again(
        self,
        programs: Mapping[str, int | None],
        variables: Mapping[str, bytes],
        targets: Mapping[str, str] | None = None,
    ) -> Object:
        """Load programs once more, with the same maps and other settings.

        For kernels on which a program cannot be told what it is attached to: it is loaded for each.

        Args:
            programs: As in :class:`LoadSettings`.
            variables: Global variables that differ from the first time.
            targets: Kernel function or tracepoint by program name.

        Returns:
            The object; it is freed with this one.

        Raises:
            KernelError: The kernel refused.
        """
        again = self._open(programs)
        try:
            self._prepare(again)
            for name, value in variables.items():
                again.set_variable(name, value)
            for name, target in (targets or {}).items():
                again.programs[name].set_target(target)
            read_only = again.variables["dc_owner_uid"][0].name
            for name, existing in self._object.maps.items():
                if name != read_only:
                    again.maps[name].reuse(existing.fd)
            again.load()
        except OSError as error:
            raise KernelError(f"{self._object_path.name}: {error.strerror}") from error
        return again

    @property
    def recording(self) -> bool:
        """Whether the programs record; off after loading."""
        return bool(self._control.recording)

    @recording.setter
    def recording(self, wanted: bool) -> None:
        if wanted and self._putting_rings is not None:
            try:
                self._putting_rings.wait()
            except OSError as error:
                raise KernelError(f"{self._object_path.name}: {error.strerror}") from error
        self._control.recording = int(wanted)

    def set_mode(self, function: int, mode: layout.Mode) -> None:
        """Change whether calls of a function are traced, counted or ignored, from now on."""
        row = function * self._object.maps["functions"].value_bytes
        self._memory["functions"][row + _MODE_OFFSET] = int(mode)

    def modes(self) -> bytes:
        """Return what happens with calls of each function now, an enum dc_mode each."""
        stride = self._object.maps["functions"].value_bytes
        end = stride * len(self._settings.functions)
        return self._memory["functions"][_MODE_OFFSET:end:stride]

    def losses(self) -> tuple[int, ...]:
        """Return the counters of enum dc_loss, summed over the CPUs."""
        losses = self._object.maps["losses"]
        stride = -(-losses.value_bytes // 8)
        data = bpf_syscall.map_lookup(losses.fd, bytes(4), 8 * stride * possible_cpus())
        counters = array.array("Q", data)
        return tuple(sum(counters[slot::stride]) for slot in range(stride))

    def skipped(self) -> int:
        """Return how often the kernel did not run one of the programs, whoever's call it was."""
        count = 0
        for program in self._programs:
            # Those of a tier that the kernel refused are not there.
            with suppress(OSError):
                count += misses.program_misses(program.fd)
        return count

    def pin_processes(self, path: Path) -> None:
        """Let other programs see which processes are recorded: a map of their ids.

        Args:
            path: A name in the BPF file system; whoever gives it removes it.

        Raises:
            OSError: It cannot be made.
        """
        bpf_syscall.pin(self._object.maps["recorded_processes"].fd, os.fsencode(path))

    def register(self, pid: int) -> bool:
        """Record a process from now on, with what it starts later.

        Returns:
            Whether it was not recorded before.

        Raises:
            OSError: ESRCH: there is no such process.
        """
        threads = self._object.maps["threads"]
        mark = struct.pack("=I", 1) + bytes(threads.value_bytes - 4)
        with _process_key(pid) as key:
            try:
                bpf_syscall.map_update(threads.fd, key, mark, bpf_syscall.NO_EXIST)
            except OSError as error:
                if error.errno != errno.EEXIST:
                    raise
                known = bpf_syscall.map_lookup(threads.fd, key, threads.value_bytes)
                if known[:4] != bytes(4):
                    return False
                bpf_syscall.map_update(threads.fd, key, mark)
        # Threads that were seen before must look again.
        self._control.registration_generation += 1
        return True

    def unregister(self, pid: int) -> None:
        """Record a process no longer.

        Raises:
            OSError: ESRCH: there is no such process.
        """
        threads = self._object.maps["threads"]
        with _process_key(pid) as key:
            bpf_syscall.map_update(threads.fd, key, bytes(threads.value_bytes))
        self._control.registration_generation += 1

    def is_registered(self, pid: int) -> bool:
        """Return whether a process is recorded.

        Raises:
            OSError: ESRCH: there is no such process.
        """
        threads = self._object.maps["threads"]
        with _process_key(pid) as key:
            try:
                mark = bpf_syscall.map_lookup(threads.fd, key, threads.value_bytes)
            except OSError as error:
                if error.errno != errno.ENOENT:
                    raise
                return False
        return mark[:4] != bytes(4)

    def take_profile(self) -> list[profile_map.ProfileEntry]:
        """Return the sums since the last call and remove them from the kernel.

        Raises:
            OSError: The kernel did not hand them over.
        """
        old = self._control.epoch & 1
        self._control.epoch = old ^ 1
        # A program that saw the old epoch may still be adding to it.
        self.wait_for_programs()
        return profile_map.take(self._object.maps["profile"], old)

    def wait_for_programs(self) -> None:
        """Return when every program that runs now has ended.

        Programs attached to user space's functions are already waited for when their link is
        closed.
        """
        # Changing a map of maps waits for running programs, as maybe_wait_bpf_programs() in the
        # kernel's kernel/bpf/syscall.c promises.
        bpf_syscall.map_update(
            self._object.maps["events"].fd, bytes(4), struct.pack("=I", self.events[0].fd)
        )

    def close(self) -> None:
        """Free the programs and maps. What is still attached stays until its link is closed."""
        if self._putting_rings is not None:
            with suppress(OSError):
                self._putting_rings.wait()
        self._control = layout.Control()
        for memory in self._memory.values():
            memory.close()
        self._memory.clear()
        for opened in reversed(self._objects):
            opened.close()
        self._objects.clear()
        self._programs.clear()
        events, self.events = self.events, ()
        for ring in events:
            os.close(ring.fd)
