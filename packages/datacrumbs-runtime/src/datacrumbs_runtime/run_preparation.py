"""From a signed probe file to attached programs: what a run and a check have in common."""

import os
import platform
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from datacrumbs_runtime.admission import FILE_LIMIT_SHARE, RunRequest
from datacrumbs_runtime.bpf.attach_report import AttachFailure, AttachReport
from datacrumbs_runtime.cgroups import find_cgroup
from datacrumbs_runtime.custom.attaching import attach_custom, forbidden
from datacrumbs_runtime.engine import Engine, Identity, RunSettings
from datacrumbs_runtime.errors import AttachError, TraceError
from datacrumbs_runtime.known_failures import KnownFailures
from datacrumbs_runtime.pinned_binaries import PinnedBinaries
from datacrumbs_runtime.schema.probe_file import Category, ProbeFile
from datacrumbs_runtime.schema.site_config import SiteConfig
from datacrumbs_runtime.signing.accounts import Account
from datacrumbs_runtime.status_db import StatusDatabase, database_path
from datacrumbs_runtime.trace.writer import Owner, Place, WriterSettings
from datacrumbs_runtime.trace_directory import TraceDirectory

if TYPE_CHECKING:
    from datacrumbs_runtime.custom.host import CustomProbe

MAX_STEM = 100
LAST_WAIT_S = 1.0
TRACE_SUFFIX = ".pfw.gz"


@dataclass(frozen=True, slots=True)
class Prepared:
    """Programs that are attached, for a run that has not begun.

    Attributes:
        engine: The run; whoever prepared it stops it.
        report: What attaching came to, with the paths that the user knows.
        custom: Custom probes that are attached.
        keep_outcomes: Writes the outcomes into the status database; may take a while.
    """

    engine: Engine
    report: AttachReport
    custom: tuple["CustomProbe", ...]
    keep_outcomes: Callable[[], None]


def prepare(
    request: RunRequest,
    custom: Sequence[Category],
    binaries: PinnedBinaries,
    probe_file: ProbeFile,
    account: Account,
    directory: TraceDirectory,
    stack: ExitStack,
) -> Prepared:
    """Leave out what is known to fail, load and attach.

    Args:
        request: What is asked for.
        custom: The custom probes.
        binaries: The binaries of all others; closed when they are attached to.
        probe_file: The probe file as it was signed.
        account: Whose run it is.
        directory: Where the trace goes.
        stack: Takes over what has to be stopped or closed.

    Raises:
        DatacrumbsError: The kernel refused the programs, all functions failed, or the trace cannot
            be created.
    """
    config = request.config
    pinned, refused = binaries.usable()
    known = KnownFailures(_status_database(config, probe_file), binaries)
    failures = [
        AttachFailure(item.category.name, function, item.reason)
        for item in refused
        for function in item.category.functions
    ]
    left_out: list[AttachFailure] = []
    if not request.retry_failed:
        pinned, left_out = known.without(pinned)
        failures += left_out
    reason = forbidden(request.system, is_switched_on=config.custom_probes)
    if reason is not None:
        failures += [
            AttachFailure(category.name, function, reason)
            for category in custom
            for function in category.functions
        ]
        custom = ()
    engine = stack.enter_context(
        _engine(request, pinned, probe_file, account, directory, has_custom=bool(custom))
    )
    report = engine.attach()
    # The kernel has them now, and closing a file may take as long as its file system likes.
    binaries.close()
    found = [
        failure._replace(reason=binaries.readable(failure.reason)) for failure in report.failures
    ]
    probes: list[CustomProbe] = []
    custom_failures: list[AttachFailure] = []
    if custom:
        probes, custom_failures = attach_custom(
            custom,
            engine,
            config.install_probe_objects_dir,
            request.run_id,
            stack,
            mode=config.mode,
            interval_s=config.profile_interval_s,
            timeout_s=config.start_timeout_s,
        )
    whole = _whole_report(
        report, failures, found, custom, custom_failures, was_known=bool(left_out)
    )

    def keep_outcomes() -> None:
        # What a tier refuses that was asked for says nothing of the one that is best here.
        if not config.max_tier:
            known.record(pinned, found)

    return Prepared(engine, whole, tuple(probes), keep_outcomes)


def _whole_report(
    report: AttachReport,
    left_out: Sequence[AttachFailure],
    found: Sequence[AttachFailure],
    custom: Sequence[Category],
    custom_failures: Sequence[AttachFailure],
    *,
    was_known: bool,
) -> AttachReport:
    """Put together what was asked for and what came of it."""
    custom_count = sum(len(category.functions) for category in custom)
    whole = replace(
        report,
        requested=report.requested + len(left_out) + custom_count,
        attached=report.attached + custom_count - len(custom_failures),
        failures=(*left_out, *found, *custom_failures),
        tiers={**report.tiers, "custom": "bcc"} if custom else report.tiers,
    )
    if not whole.requested:
        raise AttachError(
            "the probe file names no function", hint="make one with datacrumbs_probe_configurator"
        )
    if not whole.attached:
        first = whole.failures[0]
        raise AttachError(
            f"none of {whole.requested} functions can be recorded: "
            f"{first.function}: {first.reason}",
            hint="--retry-failed also tries what failed before" if was_known else None,
        )
    return whole


def _status_database(config: SiteConfig, probe_file: ProbeFile) -> StatusDatabase:
    path = database_path(
        config.install_data_dir, config.install_user, probe_file.summary.config_file_path
    )
    return StatusDatabase(path, config.install_user, platform.release())


def trace_name(request: RunRequest, account: Account) -> str:
    """Return the name of a run's trace file."""
    probes = Path(request.probe_file).stem[:MAX_STEM] or "probes"
    return f"trace-{account.user}-{request.run_id}-{platform.node()}-{probes}{TRACE_SUFFIX}"


def _engine(
    request: RunRequest,
    pinned: ProbeFile,
    signed: ProbeFile,
    account: Account,
    directory: TraceDirectory,
    *,
    has_custom: bool,
) -> Engine:
    config = request.config
    name = trace_name(request, account)
    cgroup = None if request.cgroup is None else find_cgroup(request.cgroup)
    settings = RunSettings(
        mode=config.mode,
        ring_buffer_bytes=config.ring_buffer_bytes,
        strings_buffer_bytes=config.strings_buffer_bytes,
        threshold_ns=config.threshold_ns,
        string_capture_bytes=config.string_capture_bytes,
        inclusion_paths=config.inclusion_paths,
        profile_interval_s=config.profile_interval_s,
        throttle_calls_per_s=config.throttle_calls_per_s,
        owner_uid=account.uid,
        owner_cgroup=None if cgroup is None else cgroup.id,
        owner_hierarchy=0 if cgroup is None else cgroup.hierarchy,
        publish_processes=has_custom,
        all_processes=config.trace_all_processes,
        include_kernel_threads=config.kernel_threads,
        client_libraries=(config.client_lib,),
        max_tier=config.max_tier or None,
        # Nobody may wait longer for a node.
        writer=WriterSettings(
            create_wait_s=config.start_timeout_s * FILE_LIMIT_SHARE, last_wait_s=LAST_WAIT_S
        ),
    )

    owner = Owner(account.uid, account.gid)
    place = Place(os.fspath(directory.path), name, owner, directory.account)
    identity = Identity(account.user, account.uid, account.gid, request.run_id, platform.node())
    try:
        return Engine(
            pinned,
            directory.path / name,
            identity,
            settings,
            described_as=signed,
            place=place,
        )
    except TraceError as error:
        hint = error.hint or "DATACRUMBS_TRACE_DIR_PATTERN says where traces go"
        raise TraceError(str(error), hint=hint) from error
