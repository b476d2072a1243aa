"""Installing the three packages from the source tree into one prefix.

The Python packages go into an environment of their own below ``libexec/datacrumbs``, named by what
it was made from; small scripts in ``bin`` and ``sbin`` start its interpreter by absolute path, so
the commands need nothing from the caller's environment.
"""

import hashlib
import json
import logging
import os
import platform
import re
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from datacrumbs_runtime import __version__
from datacrumbs_runtime.cli import printable
from datacrumbs_runtime.errors import ConfigurationError, ProcessError, UsageError
from datacrumbs_runtime.installed_files import (
    Change,
    InstalledFiles,
    fill_template,
    replace_file,
)
from datacrumbs_runtime.process import run
from datacrumbs_runtime.schema.site_config import SiteConfig
from datacrumbs_runtime.schema.system_configuration import (
    find_system_configuration,
    read_system_configuration,
)
from datacrumbs_runtime.signing.keys import SECRET_NAME, create_key
from datacrumbs_runtime.system_config import create_system_configuration, planned_configuration

logger = logging.getLogger(__name__)

RUNTIME, UTILS, CLIENT = (
    "packages/datacrumbs-runtime",
    "packages/datacrumbs-utils",
    "packages/datacrumbs-client-c",
)
# Commands for root; all others are for everybody.
SBIN_COMMANDS = frozenset(
    {
        "datacrumbs",
        "datacrumbs_sign_probes",
        "datacrumbs_service_run.sh",
        "datacrumbs_service_stop.sh",
    }
)
_BUILD_TIMEOUT_S = 1800.0
_MANUAL_TOOLS = ("tools/command_reference.py", "tools/settings_reference.py")
_MANUAL_TIMEOUT_S = 120.0
_MAX_SHEBANG = 120
_LEAST_PYTHON = (3, 10)
_SYSTEM_PYTHON = Path("/usr/bin/python3")
_RUN_BY_OTHERS = stat.S_IROTH | stat.S_IXOTH
# For programs that are started by name; cmake itself does not work without any.
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# It also needs what makes environments, which Debian has in a package of its own.
_VERSION = "import ensurepip, sys, venv; print(*sys.version_info[:2])"
_PLAIN_PATH = re.compile(r"/[\w./+-]*")
_LIST_COMMANDS = """
import importlib.metadata, json
names = "datacrumbs-runtime", "datacrumbs-utils"
print(json.dumps({point.name: [point.module, point.attr] for name in names
    for point in importlib.metadata.distribution(name).entry_points
    if point.group == "console_scripts"}))
"""


@dataclass(frozen=True, slots=True)
class BootstrapRequest:
    """What is to be installed, and where.

    Attributes:
        prefix: The installation, absolute.
        source: The source tree.
        python: The interpreter that the commands shall use.
        changes: Settings of a new system configuration, by key.
        dry_run: Only say what would be done.
        say: Called with a line for each thing that is done.
    """

    prefix: Path
    source: Path
    python: Path
    changes: dict[str, str]
    dry_run: bool
    say: Callable[[str], None]


def source_tree() -> Path:
    """Return the source tree that this package runs from.

    Raises:
        ConfigurationError: It was installed without one.
    """
    root = Path(__file__).resolve().parents[4]
    if not (root / CLIENT / "CMakeLists.txt").is_file():
        raise ConfigurationError(
            "this command was installed without its source tree",
            hint="name the tree with --source",
        )
    return root


def bootstrap(request: BootstrapRequest) -> None:
    """Install what is missing or out of date; what an administrator changed stays.

    Raises:
        DatacrumbsError: The tree is incomplete, a build failed, or a file could not be written.
    """
    os.environ.setdefault("PATH", _PATH)
    _check(request)
    # Whatever root's own umask is: users must be able to enter, and nobody else to write.
    os.umask(0o022)
    config = _system_configuration(request)
    environment = _python_environment(request, config)
    _client(request, config)
    if not request.dry_run:
        _commands(request, config, environment)
    _manual_pages(request, config, environment)
    _configuration_files(request, config)
    if not request.dry_run:
        for directory in (config.install_probe_objects_dir, config.install_modules_dir):
            directory.mkdir(parents=True, exist_ok=True)


def _check(request: BootstrapRequest) -> None:
    """Find out what would fail later, before anything is made."""
    if not _PLAIN_PATH.fullmatch(str(request.prefix)):
        shown = printable(str(request.prefix))
        raise UsageError(
            f"--prefix: {shown}: has characters that mean something in units and shells",
            hint="letters, digits and . _ + - are safe",
        )
    for package in (RUNTIME, UTILS, CLIENT):
        if not (request.source / package).is_dir():
            raise ConfigurationError(
                f"{request.source / package}: no such directory",
                hint="--source names the tree of DataCrumbs",
            )
    if not _is_for_all(request.python):
        raise ConfigurationError(
            f"--python: {request.python}: users cannot run it",
            hint="name one that all users have on all nodes, such as /usr/bin/python3",
        )
    try:
        version = run([request.python, "-I", "-c", _VERSION]).stdout.split()
    except ProcessError as error:
        raise ConfigurationError(f"--python: {error}") from error
    if len(version) != 2 or tuple(map(int, version)) < _LEAST_PYTHON:
        least = ".".join(map(str, _LEAST_PYTHON))
        raise ConfigurationError(f"--python: {request.python}: is not Python {least} or newer")
    for program, package in (("cmake", "cmake"), ("cc", "a C compiler")):
        if shutil.which(program) is None:
            raise ConfigurationError(f"{program}: not found", hint=f"install {package}")


def _system_configuration(request: BootstrapRequest) -> SiteConfig:
    path, config = planned_configuration(request.prefix, request.changes)
    try:
        path = find_system_configuration(request.prefix, os.environ)
    except ConfigurationError:
        logger.debug("%s: no system configuration yet", request.prefix)
    if path.exists():
        wanted, config = config.as_values(), read_system_configuration(path).config
        present = config.as_values()
        kept = [key for key in request.changes if present[key] != wanted[key]]
        if kept:
            how = "datacrumbs_system_configurator --set changes it"
            request.say(f"keep {path}: --set {' '.join(kept)} is for a new one; {how}")
    else:
        request.say(f"make {path}")
        if not request.dry_run:
            create_system_configuration(path, config)
    secret = path.parent / SECRET_NAME
    if not secret.exists():
        request.say(f"make {secret}")
        if not request.dry_run:
            create_key(path.parent)
    return config


def _sources(root: Path, *packages: str) -> Iterator[Path]:
    for package in packages:
        for path in sorted((root / package).rglob("*")):
            parts = path.relative_to(root).parts
            hidden = any(part.startswith(".") or part == "__pycache__" for part in parts)
            built = path.suffix in {".o", ".so", ".pyc"} or "tests" in parts or "build" in parts
            if path.is_file() and not hidden and not built:
                yield path


def _sources_digest(root: Path, *packages: str, salt: str = "") -> str:
    digest = hashlib.sha256(salt.encode())
    for path in _sources(root, *packages):
        digest.update(f"{path.relative_to(root)}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def _python_environment(request: BootstrapRequest, config: SiteConfig) -> Path:
    version = run([request.python, "--version"]).stdout.strip()
    digest = _sources_digest(request.source, RUNTIME, UTILS, salt=f"{request.python} {version}")
    environment = config.install_libexec_dir / f"python-{digest}"
    complete = environment / ".complete"
    if complete.exists():
        return environment
    request.say(f"install the Python packages into {environment}")
    if request.dry_run:
        return environment
    shutil.rmtree(environment, ignore_errors=True)
    environment.parent.mkdir(parents=True, exist_ok=True)
    run([request.python, "-m", "venv", environment], timeout_s=_BUILD_TIMEOUT_S)
    run(
        [
            environment / "bin/python",
            *("-m", "pip", "install", "--disable-pip-version-check", "--quiet"),
            request.source / RUNTIME,
            request.source / UTILS,
        ],
        timeout_s=_BUILD_TIMEOUT_S,
    )
    complete.touch()
    return environment


def _client(request: BootstrapRequest, config: SiteConfig) -> None:
    stamp = config.install_libexec_dir / ".client"
    digest = _sources_digest(
        request.source, CLIENT, salt=f"{platform.machine()} {config.server_run_dir}"
    )
    library_name = os.path.relpath(config.install_lib_dir, config.install_prefix)
    if stamp.exists() and stamp.read_text() == digest and config.client_lib.exists():
        return
    request.say(f"build and install the client into {config.install_prefix}")
    if request.dry_run:
        return
    with tempfile.TemporaryDirectory(prefix="datacrumbs-client-") as directory:
        build, staging = Path(directory, "build"), Path(directory, "staging")
        run(
            [
                "cmake",
                *("-S", request.source / CLIENT, "-B", build),
                "-DBUILD_TESTING=OFF",
                f"-DCMAKE_INSTALL_PREFIX={config.install_prefix}",
                f"-DCMAKE_INSTALL_LIBDIR:STRING={library_name}",
                f"-DDATACRUMBS_RUN_DIR={config.server_run_dir}",
            ],
            timeout_s=_BUILD_TIMEOUT_S,
        )
        run(["cmake", "--build", build], timeout_s=_BUILD_TIMEOUT_S)
        run(
            ["cmake", "--install", build],
            timeout_s=_BUILD_TIMEOUT_S,
            env={**os.environ, "DESTDIR": str(staging)},
        )
        staged = staging / config.install_prefix.relative_to("/")
        for path in sorted(staged.rglob("*")):
            _put_staged(path, config.install_prefix / path.relative_to(staged))
    replace_file(stamp, digest.encode(), 0o644)


def _put_staged(path: Path, target: Path) -> None:
    """Put one built file into the prefix. A file that stays the same keeps its inode."""
    if path.is_symlink():
        link = path.readlink()
        if target.is_symlink() and target.readlink() == link:
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.new")
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(link)
        temporary.replace(target)
    elif path.is_file():
        content = path.read_bytes()
        if not target.exists() or target.read_bytes() != content:
            # Programs may have the present one mapped: it is replaced, never written to.
            replace_file(target, content, path.stat().st_mode & 0o755)


def _commands(request: BootstrapRequest, config: SiteConfig, environment: Path) -> None:
    python = environment / "bin/python"
    points = json.loads(run([python, "-I", "-c", _LIST_COMMANDS]).stdout)
    for name, (module, function) in sorted(points.items()):
        directory = config.install_sbin_dir if name in SBIN_COMMANDS else config.install_bin_dir
        body = f"import sys\n\nfrom {module} import {function}\n\nsys.exit({function}())\n"
        content = (_shebang(python) + body).encode()
        path = directory / name
        if not path.exists() or path.read_bytes() != content:
            request.say(f"write {path}")
            replace_file(path, content, 0o755)
    for other in sorted(config.install_libexec_dir.glob("python-*")):
        if other != environment:
            request.say(f"remove {other}")
            shutil.rmtree(other, ignore_errors=True)


def _manual_pages(request: BootstrapRequest, config: SiteConfig, environment: Path) -> None:
    directory = config.install_prefix / "share/man"
    tool, *_ = tools = [request.source / name for name in _MANUAL_TOOLS]
    stamp = config.install_libexec_dir / ".manual-pages"
    try:
        made_by = b"".join(path.read_bytes() for path in tools)
    except OSError as error:
        raise ConfigurationError(f"{error.filename}: {error.strerror}") from error
    digest = hashlib.sha256(f"{environment}\0".encode() + made_by).hexdigest()
    if stamp.exists() and stamp.read_text() == digest and (directory / "man8").is_dir():
        return
    request.say(f"write manual pages below {directory}")
    if request.dry_run:
        return
    with tempfile.TemporaryDirectory(prefix="datacrumbs-manual-") as made:
        run([environment / "bin/python", "-I", tool, "man", made], timeout_s=_MANUAL_TIMEOUT_S)
        for page in sorted(Path(made).iterdir()):
            page.chmod(0o644)
            _put_staged(page, directory / f"man{page.suffix[1:]}" / page.name)
    replace_file(stamp, digest.encode(), 0o644)


def _shebang(python: Path) -> str:
    # -I: nothing from the caller's environment or directory decides what is imported.
    line = f"#!{python} -I\n"
    if len(line) <= _MAX_SHEBANG and " " not in str(python):
        return line
    quoted = str(python).replace("'", "'\"'\"'")
    return f"#!/bin/sh\n'''exec' '{quoted}' -I \"$0\" \"$@\"\n'''\n"


def _configuration_files(request: BootstrapRequest, config: SiteConfig) -> None:
    values = {
        **config.as_values(),
        "DATACRUMBS_VERSION": __version__,
        "DATACRUMBS_TRACE_BASE_DIR": str(config.trace_base_dir),
    }
    files = InstalledFiles(config.install_data_dir / "installed-files.json", config.install_prefix)
    for source, target, mode in _templates(request, config):
        try:
            content = source.read_bytes()
        except OSError as error:
            raise ConfigurationError(f"{source}: {error.strerror}") from error
        if source.suffix == ".in":
            content = fill_template(content.decode(), values, str(source)).encode()
        change = files.plan(target, content)
        if change is Change.KEPT:
            request.say(f"keep {target}, which was changed; write {target.name}.new")
        elif change is not Change.SAME:
            request.say(f"{change.value} {target}")
        if not request.dry_run:
            files.install(target, content, mode)
    if not request.dry_run:
        files.save()


def _templates(request: BootstrapRequest, config: SiteConfig) -> Iterator[tuple[Path, Path, int]]:
    """Yield template, where it goes, and its mode."""
    data = request.source / RUNTIME / "data"
    etc = config.install_etc_dir
    for unit in sorted((data / "systemd").glob("*.in")):
        yield unit, etc / "systemd" / unit.stem, 0o644
    configs = config.install_configs_dir
    yield data / "configs/host.yaml.in", configs / f"{config.install_host}.yaml", 0o644
    yield data / "configs/project.env.local.in", configs / "project.env.local", 0o644
    modules = config.install_modules_dir / "datacrumbs"
    yield data / "modulefiles/datacrumbs.lua.in", modules / f"{__version__}.lua", 0o644
    tcl = etc / "tcl/modulefiles/datacrumbs" / __version__
    yield data / "modulefiles/datacrumbs.tcl.in", tcl, 0o644
    for probe in sorted((data / "probes").iterdir()):
        yield probe, config.install_probe_objects_dir / probe.name, 0o644
    utils = request.source / UTILS / "data"
    yield utils / "datacrumbs_setup.in", config.install_bin_dir / "datacrumbs_setup", 0o644
    yield utils / "flux/datacrumbs.py", etc / "flux/cli/plugins/datacrumbs.py", 0o644


def default_python() -> Path:
    """Return the interpreter behind the environment that this runs in, if all users can run it.

    Else the system's, for an interpreter in somebody's home is of no use to others.
    """
    base = Path(getattr(sys, "_base_executable", None) or sys.executable)
    candidates = (base.resolve(), _SYSTEM_PYTHON)
    return next((path for path in candidates if _is_for_all(path)), candidates[0])


def _is_for_all(program: Path) -> bool:
    """Return whether everybody can run a program."""
    try:
        path = program.resolve(strict=True)
        ways = [parent.stat().st_mode & stat.S_IXOTH for parent in path.parents]
        return all(ways) and path.stat().st_mode & _RUN_BY_OTHERS == _RUN_BY_OTHERS
    except OSError:
        return False
