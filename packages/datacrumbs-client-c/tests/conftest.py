"""Under pytest the package is built first; under ctest the build directory is given."""

import atexit
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

if "BUILD_DIR" not in os.environ:
    source = Path(__file__).parent.parent
    build = tempfile.mkdtemp(prefix="datacrumbs-client-")
    atexit.register(shutil.rmtree, build, ignore_errors=True)
    subprocess.run(["cmake", "-S", source, "-B", build], check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["cmake", "--build", build], check=True, stdout=subprocess.DEVNULL)
    os.environ.update(BUILD_DIR=build, SOURCE_DIR=os.fspath(source), CC="cc")
