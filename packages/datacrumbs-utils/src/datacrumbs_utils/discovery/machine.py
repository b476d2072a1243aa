"""What this machine has to offer, asked once per selection and only for what is needed."""

from functools import cached_property, lru_cache
from pathlib import Path

from datacrumbs_utils.discovery.candidates import Candidate
from datacrumbs_utils.discovery.signatures import Signature
from datacrumbs_utils.discovery.tracepoints import KernelTracepoints


class Machine:
    """The functions of the running kernel and of files, remembered between entries."""

    def __init__(self) -> None:
        self.tracepoints = KernelTracepoints()
        self.elf_functions = lru_cache(maxsize=None)(self._elf_functions)
        self.header_functions = lru_cache(maxsize=None)(self._header_functions)

    @cached_property
    def syscalls(self) -> dict[str, Signature]:
        """System calls by the name that ``unistd.h`` has for them."""
        from datacrumbs_utils.discovery import btf

        return btf.syscall_signatures()

    @cached_property
    def described_functions(self) -> frozenset[str]:
        """Names of the kernel functions that BTF describes."""
        from datacrumbs_utils.discovery import btf

        return btf.functions()

    @cached_property
    def kernel_functions(self) -> list[Candidate]:
        """Kernel functions as the symbol table has them, refused ones with the reason."""
        from datacrumbs_utils.discovery import kallsyms

        return kallsyms.functions()

    def _elf_functions(self, path: Path) -> list[Candidate]:
        from datacrumbs_utils.discovery import elf

        return elf.functions(path)

    def _header_functions(self, path: Path) -> frozenset[str]:
        from datacrumbs_utils.discovery import headers

        return headers.functions(path)
