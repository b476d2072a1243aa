"""Fixtures for tests of signing: a site with the real relay, with and without its service."""

import contextlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from signing_site import Site

CLIENT_SOURCE = Path(__file__).parents[3] / "datacrumbs-client-c"


@pytest.fixture(scope="session")
def built_relay(tmp_path_factory: pytest.TempPathFactory) -> Path:
    build = tmp_path_factory.mktemp("client")
    for argv in (
        ["cmake", "-S", str(CLIENT_SOURCE), "-B", str(build), "-DBUILD_TESTING=OFF"],
        ["cmake", "--build", str(build)],
    ):
        subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
    return build / "bin/datacrumbs_probe_configurator_exec"


def make_site(relay: Path) -> Iterator[Site]:
    # Not tmp_path: no user but root can enter that.
    root = Path(tempfile.mkdtemp(prefix="datacrumbs-signing-"))
    root.chmod(0o755)
    site = Site(root)
    site.install_relay(relay)
    try:
        yield site
    finally:
        if site.process is not None:
            site.process.kill()
            site.process.wait()
        shutil.rmtree(root)


@pytest.fixture
def stopped_site(built_relay: Path) -> Iterator[Site]:
    yield from make_site(built_relay)


@pytest.fixture
def site(stopped_site: Site) -> Site:
    stopped_site.start()
    return stopped_site


@pytest.fixture(scope="module")
def shared_site(built_relay: Path) -> Iterator[Site]:
    with contextlib.contextmanager(make_site)(built_relay) as site:
        site.start()
        yield site
