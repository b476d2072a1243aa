"""Writes and reads small files from threads of several processes.

usage: threads_and_processes.py DIRECTORY fork|spawn
"""

import multiprocessing
import sys
import threading
from pathlib import Path

PROCESSES = 3
THREADS = 4
ROUNDS = 25


def use_files(directory: str, number: int) -> None:
    for i in range(ROUNDS):
        path = Path(directory, f"file{number}_{i % 5}")
        with path.open("ab") as stream:
            stream.write(b"z" * 1000 * (i % 7))
        path.read_bytes()


def be_a_process(directory: str, number: int) -> None:
    threads = [
        threading.Thread(target=use_files, args=(directory, 10 * number + each))
        for each in range(THREADS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def main() -> None:
    multiprocessing.set_start_method(sys.argv[2])
    processes = [
        multiprocessing.Process(target=be_a_process, args=(sys.argv[1], number))
        for number in range(PROCESSES)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    with multiprocessing.Pool(2) as pool:
        total = sum(pool.map(len, ["a" * i for i in range(20)]))
    sys.stdout.write(f"{total}\n")


if __name__ == "__main__":
    main()
