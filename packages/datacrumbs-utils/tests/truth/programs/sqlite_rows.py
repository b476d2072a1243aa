"""Writes 1,000 rows in a hundred transactions. usage: sqlite_rows.py DATABASE"""

import sqlite3
import sys

connection = sqlite3.connect(sys.argv[1])
connection.execute("create table rows (number, text)")
for number in range(1000):
    connection.execute("insert into rows values (?, ?)", (number, "x" * 100))
    if number % 10 == 9:
        connection.commit()
rows = connection.execute("select count(*) from rows").fetchone()[0]
sys.stdout.write(f"{rows}\n")
