"""datacrumbs_probe_configurator_exec against a signer that is played here, byte by byte."""

import os
import socket
import struct
import subprocess
import tempfile
import threading
import unittest
from collections.abc import Callable
from pathlib import Path

RELAY = Path(os.environ["BUILD_DIR"]) / "bin/datacrumbs_probe_configurator_exec"
HEADER = struct.Struct(">6sBBI")
REQUEST, SIGNED, REFUSED, FAILED = 1, 2, 3, 4

Signer = Callable[[socket.socket], None]


def frame(kind: int, payload: bytes, *, magic: bytes = b"DCSIGN", version: int = 1) -> bytes:
    return HEADER.pack(magic, version, kind, len(payload)) + payload


def receive(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        part = connection.recv(count - len(data))
        if not part:
            break
        data += part
    return data


class Relay(unittest.TestCase):
    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = Path(directory.name)
        self.path = self.directory / "signer.sock"

    def play(self, signer: Signer) -> None:
        listener = socket.socket(socket.AF_UNIX)
        self.addCleanup(listener.close)
        listener.bind(os.fspath(self.path))
        listener.listen()

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                signer(connection)

        thread = threading.Thread(target=serve)
        thread.start()
        self.addCleanup(thread.join)

    def relay(self, document: bytes, *options: str) -> "subprocess.CompletedProcess[bytes]":
        return subprocess.run(
            [RELAY, *options],
            input=document,
            env={"DATACRUMBS_SIGN_PROBES_SOCKET_PATH": os.fspath(self.path)},
            capture_output=True,
            check=False,
            timeout=30,
        )

    def test_request_and_answer_pass_unchanged(self) -> None:
        document = bytes(range(256)) * 40000
        received: list[bytes] = []

        def signer(connection: socket.socket) -> None:
            received.append(receive(connection, HEADER.size + len(document)))
            connection.sendall(frame(SIGNED, document[::-1]))

        self.play(signer)
        done = self.relay(document)
        assert (done.returncode, done.stderr) == (0, b"")
        assert done.stdout == document[::-1]
        assert received == [frame(REQUEST, document)]

    def answer(self, answer: bytes) -> Signer:
        def signer(connection: socket.socket) -> None:
            receive(connection, HEADER.size + 2)
            connection.sendall(answer)

        return signer

    def test_refusal_is_status_4_with_reason_and_hint(self) -> None:
        self.play(self.answer(frame(REFUSED, b"kernel function x: denied\nask for it\x1b[2J")))
        done = self.relay(b"{}")
        assert (done.returncode, done.stdout) == (4, b"")
        assert done.stderr.decode().splitlines() == [
            "datacrumbs_probe_configurator_exec: error: kernel function x: denied",
            "datacrumbs_probe_configurator_exec: hint: ask for it?[2J",
        ]

    def test_trouble_inside_the_signer_is_status_1(self) -> None:
        self.play(self.answer(frame(FAILED, b"busy")))
        done = self.relay(b"{}")
        assert done.returncode == 1
        assert done.stderr.endswith(b"error: busy\n")

    def test_answer_before_the_whole_request_is_heard(self) -> None:
        def signer(connection: socket.socket) -> None:
            receive(connection, HEADER.size)
            connection.sendall(frame(REFUSED, b"too large"))

        self.play(signer)
        done = self.relay(b"x" * (10 << 20))
        assert done.returncode == 4, done.stderr
        assert b"too large" in done.stderr

    def test_no_signer_is_status_3(self) -> None:
        done = self.relay(b"{}")
        assert done.returncode == 3
        assert f"{self.path}: no signer: No such file".encode() in done.stderr
        stale = socket.socket(socket.AF_UNIX)
        stale.bind(os.fspath(self.path))
        stale.close()
        assert self.relay(b"{}").returncode == 3

    def test_silence_is_status_5(self) -> None:
        over = threading.Event()
        self.addCleanup(over.set)

        def signer(_: socket.socket) -> None:
            over.wait(20)

        self.play(signer)
        done = self.relay(b"{}", "--timeout", "1")
        assert done.returncode == 5
        assert b"did not answer in time" in done.stderr
        over.set()

    def test_full_queue_is_status_5(self) -> None:
        listener = socket.socket(socket.AF_UNIX)
        self.addCleanup(listener.close)
        listener.bind(os.fspath(self.path))
        listener.listen(0)
        waiting = socket.socket(socket.AF_UNIX)
        self.addCleanup(waiting.close)
        waiting.connect(os.fspath(self.path))
        assert self.relay(b"{}", "--timeout", "1").returncode == 5

    def test_broken_answers_are_status_1(self) -> None:
        cases = {
            "other magic": frame(SIGNED, b"{}", magic=b"HTTP/1"),
            "other version": frame(SIGNED, b"{}", version=2),
            "a request": frame(REQUEST, b"{}"),
            "too long": HEADER.pack(b"DCSIGN", 1, SIGNED, (64 << 20) + 1),
            "cut in the header": b"DCSI",
            "cut in the payload": frame(SIGNED, b"{}")[:-1],
            "nothing": b"",
        }
        for name, answer in cases.items():
            with self.subTest(name):
                self.path.unlink(missing_ok=True)
                self.play(self.answer(answer))
                done = self.relay(b"{}")
                assert (done.returncode, done.stdout) == (1, b"")
                assert b"error: " in done.stderr

    def test_empty_and_oversized_input_are_refused_before_connecting(self) -> None:
        assert self.relay(b"").returncode == 1
        done = self.relay(b"x" * ((64 << 20) + 1))
        assert done.returncode == 1
        assert b"larger than 64 MiB" in done.stderr

    def test_long_socket_path(self) -> None:
        deep = self.directory / ("d" * 100) / ("e" * 100)
        deep.mkdir(parents=True)
        short = self.path
        self.play(self.answer(frame(SIGNED, b"ok")))
        self.path = deep / "signer.sock"
        self.path.symlink_to(short)
        assert self.relay(b"{}").stdout == b"ok"

    def test_option_names_the_socket(self) -> None:
        self.play(self.answer(frame(SIGNED, b"ok")))
        path, self.path = self.path, self.directory / "elsewhere"
        assert self.relay(b"{}", "--socket", os.fspath(path)).stdout == b"ok"

    def test_wrong_usage_is_status_2(self) -> None:
        for options in (("x",), ("--timeout",), ("--timeout", "0"), ("--timeout", "1x")):
            assert self.relay(b"{}", *options).returncode == 2
        assert self.relay(b"", "--help").returncode == 0

    def test_closed_standard_output_is_status_1(self) -> None:
        self.play(self.answer(frame(SIGNED, b"ok")))
        with Path("/dev/full").open("wb") as full:
            done = subprocess.run(
                [RELAY, "--socket", self.path],
                input=b"{}",
                stdout=full,
                stderr=subprocess.PIPE,
                check=False,
            )
        assert done.returncode == 1
        assert b"standard output: No space left" in done.stderr


if __name__ == "__main__":
    unittest.main()
