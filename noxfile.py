"""Tasks that build or drive something other than a Python environment. See tox.ini for checks."""

import nox

nox.options.sessions = []

RUNTIME = "packages/datacrumbs-runtime"
CLIENT = "packages/datacrumbs-client-c"


@nox.session(venv_backend="none")
def bpf(session: nox.Session) -> None:
    """Compile the BPF programs and the event pump into the source tree (--force: always)."""
    session.run("python3", f"{RUNTIME}/hatch_build.py", *session.posargs, external=True)


@nox.session(venv_backend="none")
def bindings(session: nox.Session) -> None:
    """Write bpf/layout.py from the BTF of event.h (-- --check: only compare)."""
    session.run("python3", f"{RUNTIME}/tools/gen_event_layout.py", *session.posargs, external=True)


@nox.session(venv_backend="none")
def kernel(session: nox.Session) -> None:
    """Run the tests that load BPF programs, as root on this kernel."""
    session.run("python3", "-m", "pytest", "-m", "kernel", *session.posargs, external=True)


@nox.session(venv_backend="none")
def soak(session: nox.Session) -> None:
    """Start and stop 200 runs and record 100,000 processes in one: nothing stays behind."""
    tests = f"{RUNTIME}/tests/test_daemon_leaks.py"
    environment = {"DATACRUMBS_TEST_SOAK": "1"}
    session.run(
        "python3",
        "-m",
        "pytest",
        "-m",
        "kernel",
        tests,
        *session.posargs,
        env=environment,
        external=True,
    )


@nox.session(venv_backend="none")
def vm(session: nox.Session) -> None:
    """Run the tests of attaching on all kernels there are, in virtual machines."""
    tool = "tools/kernel-vm.sh"
    missing = session.run(tool, "--check", external=True, silent=True, success_codes=[0, 77])
    if missing:
        session.skip(str(missing).strip())
    session.run(tool, *(session.posargs or ["--all"]), external=True)


@nox.session(venv_backend="none")
def systemd_vm(session: nox.Session) -> None:
    """Run the installed service in a virtual machine, as root; its kernel: DATACRUMBS_VM_KERNEL."""
    tool = f"{RUNTIME}/tests/systemd_vm/virtual_machine.py"
    missing = session.run("python3", tool, external=True, silent=True)
    if missing:
        session.skip(str(missing))
    session.run("python3", "-m", "pytest", "-m", "vm", *session.posargs, external=True)


@nox.session(venv_backend="none")
def bench(session: nox.Session) -> None:
    """Print the table of costs beside other tracers, as root on this kernel."""
    session.run("python3", "-m", "benchmarks", *session.posargs, external=True)


@nox.session(venv_backend="none")
def docs(session: nox.Session) -> None:
    """Build the documentation into docs/_build and the manual pages into docs/_build/man."""
    session.run(
        "python3",
        "-m",
        "sphinx",
        "-n",
        "-W",
        "-b",
        "html",
        "docs",
        "docs/_build/html",
        external=True,
    )
    session.run("python3", "tools/command_reference.py", "man", "docs/_build/man", external=True)


@nox.session(venv_backend="none")
def client(session: nox.Session) -> None:
    """Build and test the C client."""
    build = session.create_tmp()
    session.run("cmake", "-S", CLIENT, "-B", build, external=True)
    session.run("cmake", "--build", build, external=True)
    session.run("ctest", "--test-dir", build, "--output-on-failure", external=True)
