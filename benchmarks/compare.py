"""Run one program under several tracers, in turns, so that a slow moment meets all of them."""

from collections.abc import Iterator, Sequence
from statistics import median

from benchmarks.rows import Row
from benchmarks.tracers import Command, Tracer


def interleaved(
    tracers: Sequence[Tracer], command: Command, repeats: int
) -> dict[str, tuple[float, str]]:
    """Return median nanoseconds per call, or why there are none, by tracer name."""
    values: dict[str, list[float]] = {}
    trouble = {tracer.name: tracer.missing for tracer in tracers if tracer.missing}
    for _ in range(repeats):
        for tracer in tracers:
            if tracer.name in trouble:
                continue
            try:
                values.setdefault(tracer.name, []).append(tracer.run(command))
            except (RuntimeError, OSError) as error:
                trouble[tracer.name] = str(error)
    results = {name: (median(measured), "") for name, measured in values.items() if measured}
    for name, reason in trouble.items():
        results.setdefault(name, (float("nan"), reason))
    return results


def rows_of(
    what: str,
    tracers: Sequence[Tracer],
    results: dict[str, tuple[float, str]],
    *,
    floor: str | None = None,
    budgets: dict[str, tuple[str, float]] | None = None,
) -> Iterator[Row]:
    """Yield one row per tracer, relative to the floor's added cost if there is one, else to bare.

    Args:
        what: What was measured.
        tracers: In the order of the table; the first one is no tracer.
        results: From :func:`interleaved`.
        floor: Name of the tracer whose added cost is the reference.
        budgets: By tracer name: words, and the most nanoseconds that may be added.
    """
    bare = results[tracers[0].name][0]
    floor_added = results[floor][0] - bare if floor and not results[floor][1] else None
    for tracer in tracers:
        value, trouble = results[tracer.name]
        if trouble:
            yield Row(what, tracer.name, None, "ns", note=trouble)
            continue
        added = value - bare
        words, limit = (budgets or {}).get(tracer.name, ("", 0.0))
        ratio, compared_to = value / bare, "bare"
        if floor_added and tracer is not tracers[0]:
            ratio, compared_to = added / floor_added, "floor added"
        yield Row(
            what,
            tracer.name,
            value,
            "ns",
            added=None if tracer is tracers[0] else added,
            ratio=ratio,
            compared_to=compared_to,
            budget=words,
            kept=added <= limit if words else None,
        )
