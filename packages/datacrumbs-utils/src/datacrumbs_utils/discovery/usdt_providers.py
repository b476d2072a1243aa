"""Arguments of the USDT probes of well-known programs: notes tell sizes, no names and no types.

Of a function that is recorded from ``NAME__entry`` to ``NAME__return`` the arguments are those of
its entry.
"""

from datacrumbs_runtime.schema.probe_file import Argument
from datacrumbs_utils.discovery import prototypes

_DECLARATIONS = {
    # CPython, Doc/howto/instrumentation.rst.
    "python": {
        "function": ("const char *filename", "const char *function", "int line"),
        "function__entry": ("const char *filename", "const char *function", "int line"),
        "function__return": ("const char *filename", "const char *function", "int line"),
        "line": ("const char *filename", "const char *function", "int line"),
        "gc__start": ("int generation",),
        "gc__done": ("long collected",),
        "import__find__load__start": ("const char *module",),
        "import__find__load__done": ("const char *module", "int found"),
        "audit": ("const char *event", "void *tuple"),
    },
    # GNU libstdc++, as the debuggers use them.
    "libstdcxx": {
        "throw": ("void *object", "void *type", "void *destructor"),
        "catch": ("void *object", "void *type"),
        "rethrow": ("void *object", "void *type"),
    },
}


def arguments(provider: str, name: str) -> tuple[Argument, ...]:
    """Return the arguments of a probe, or () if nobody said what they are."""
    declarations = _DECLARATIONS.get(provider, {}).get(name, ())
    return prototypes.overridden(prototypes.parse_arguments(declarations))
