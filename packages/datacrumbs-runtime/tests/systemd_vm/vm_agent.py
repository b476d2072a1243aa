"""Runs in the virtual machine: executes what the tests ask for, one command at a time.

Requests and answers are lines of JSON on a port of the machine; data in them is base64.
"""

import base64
import json
import os
import pwd
import subprocess
import sys
from typing import Any

TIMED_OUT = 124


def execute(request: dict[str, Any]) -> dict[str, Any]:
    """Run one command to its end and tell what came of it."""
    options: dict[str, Any] = {}
    if request["user"] is not None:
        entry = pwd.getpwnam(request["user"])
        options = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
    try:
        done = subprocess.run(
            request["argv"],
            input=base64.b64decode(request["stdin"]),
            capture_output=True,
            check=False,
            timeout=request["timeout_s"],
            cwd="/",
            env={"PATH": os.defpath + ":/usr/sbin:/sbin"},
            **options,
        )
        status, out, err = done.returncode, done.stdout, done.stderr
    except subprocess.TimeoutExpired as error:
        status, out, err = TIMED_OUT, error.stdout or b"", error.stderr or b""
    except OSError as error:
        status, out, err = 127, b"", str(error).encode()
    return {
        "status": status,
        "stdout": base64.b64encode(out).decode(),
        "stderr": base64.b64encode(err).decode(),
    }


def main() -> None:
    with open(sys.argv[1], "r+b", buffering=0) as port:  # noqa: PTH123  not a regular file
        port.write(b'{"status": 0, "stdout": "", "stderr": ""}\n')
        waiting = b""
        while True:
            data = port.read(65536)
            waiting += data or b""
            if not data or not waiting.endswith(b"\n"):
                continue
            answer = json.dumps(execute(json.loads(waiting))).encode() + b"\n"
            waiting = b""
            while answer:
                answer = answer[port.write(answer) :]


if __name__ == "__main__":
    main()
