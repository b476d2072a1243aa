"""Functions that a return probe would break, by what they do.

A return probe replaces the return address on the stack until the function returns. A function that
reads that address, keeps it for later, or never was called in the first place cannot bear that: the
program would crash or behave differently. Such functions are refused with the reason given here.
"""

import re

_RETURNS_TWICE = "returns twice: a return probe on it crashes the program"
_UNWINDS = "unwinds its caller's frame: a return probe on it ends the program"
_CANCELS = "unwinds its thread: with a return probe on it clean-up code does not run"
COLD = "rarely executed part of another function, jumped to rather than called"
_NOT_CALLED = "is entered without a call, so that no return address is on the stack"
_CALLER = "looks at its return address to find its caller, which a return probe replaces"

_BY_REASON: dict[str, tuple[str, ...]] = {
    _RETURNS_TWICE: (
        *("setjmp", "_setjmp", "__setjmp", "sigsetjmp", "__sigsetjmp"),
        *("getcontext", "__getcontext", "swapcontext", "__swapcontext"),
    ),
    _UNWINDS: (
        *("__cxa_throw", "__cxa_rethrow", "_Unwind_RaiseException", "_Unwind_Resume"),
        "_Unwind_Resume_or_Rethrow",
    ),
    _CANCELS: (
        *("pthread_exit", "__pthread_exit", "thrd_exit", "_Unwind_ForcedUnwind"),
        *("__pthread_unwind", "__pthread_unwind_next"),
    ),
    _NOT_CALLED: (
        *("__restore_rt", "__start_context", "_dl_start_user", "_dl_start", "__morestack"),
        *("_dl_runtime_resolve", "_dl_runtime_profile"),
    ),
    _CALLER: (
        *("dlsym", "dlvsym", "dlopen", "dlmopen"),
        *("___dlsym", "___dlvsym", "___dlopen", "___dlmopen"),
        *("mcount", "_mcount", "__fentry__"),
    ),
}
_REASONS = {name: text for text, names in _BY_REASON.items() for name in names}

_PATTERNS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r".*\.cold(\.\d+)?"), COLD),
    (re.compile(r"_dl_runtime_(resolve|profile)_.*"), _NOT_CALLED),
    (re.compile(r"_ZSt\d+__throw_.*|_ZSt17rethrow_exception.*"), _UNWINDS),
)

_DESTRUCTOR = re.compile(r"D[012]Ev$")

GLUE = frozenset({"_init", "_fini", "_start"})


def reason(symbol: str) -> str | None:
    """Return why a function of that name must not be probed, or None."""
    known = _REASONS.get(symbol)
    if known is not None:
        return known
    if symbol.startswith("_") or ".cold" in symbol:
        for pattern, text in _PATTERNS:
            if pattern.fullmatch(symbol):
                return text
    return None


def may_throw(symbol: str) -> bool:
    """Return whether a function is one of C++, which an exception may leave.

    The unwinder does not get past the replaced return address: an exception that leaves a function
    with a return probe ends the program (std::terminate). Constructors and most methods of
    containers throw when memory is exhausted, if not before; destructors do not.
    """
    return symbol.startswith("_Z") and _DESTRUCTOR.search(symbol) is None
