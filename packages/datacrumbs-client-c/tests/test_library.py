"""What the client library must be: marks that are cheap to probe, libc at most, silent."""

import os
import platform
import re
import subprocess
import unittest
from pathlib import Path

LIBRARY = Path(os.environ["BUILD_DIR"]) / "lib/libdatacrumbs_client.so"
MARKS = ("datacrumbs_start", "datacrumbs_stop")


def output(*argv: str) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


class Library(unittest.TestCase):
    def test_exports_the_two_marks_and_nothing_else(self) -> None:
        defined = output("nm", "-D", "--defined-only", str(LIBRARY))
        assert sorted(line.split()[-1] for line in defined.splitlines()) == sorted(MARKS)

    @unittest.skipUnless(platform.machine() == "x86_64", "the bytes of another architecture")
    def test_marks_begin_with_a_five_byte_nop(self) -> None:
        for mark in MARKS:
            code = output("objdump", "-d", f"--disassemble={mark}", str(LIBRARY))
            body = code[code.index(f"<{mark}>:") :]
            first = re.search(r"^\s+[0-9a-f]+:\t([0-9a-f ]+)\t", body, re.MULTILINE)
            assert first is not None
            assert first[1].split() == ["0f", "1f", "44", "00", "00"], mark

    def test_constructor_starts_and_nothing_stops(self) -> None:
        code = output("objdump", "-d", str(LIBRARY))
        calls = re.findall(r"\b(?:call|jmp|bl?)\s+[0-9a-f]+ <(datacrumbs_\w+)>", code)
        assert calls == ["datacrumbs_start"]

    def test_needs_at_most_libc(self) -> None:
        needed = re.findall(r"NEEDED.*\[(.*)\]", output("readelf", "-dW", str(LIBRARY)))
        assert set(needed) <= {"libc.so.6"}

    def test_soname_has_the_major_version(self) -> None:
        assert "[libdatacrumbs_client.so.1]" in output("readelf", "-dW", str(LIBRARY))

    def test_has_a_build_id_and_no_executable_stack(self) -> None:
        assert "Build ID:" in output("readelf", "-nW", str(LIBRARY))
        assert "RWE" not in output("readelf", "-lW", str(LIBRARY))

    def test_is_silent(self) -> None:
        done = subprocess.run(
            ["/bin/true"],
            env={"LD_PRELOAD": str(LIBRARY)},
            capture_output=True,
            check=True,
        )
        assert done.stdout + done.stderr == b""


if __name__ == "__main__":
    unittest.main()
