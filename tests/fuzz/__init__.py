"""Mutated files for every reader: only documented errors may come out.

    python -m tests.fuzz NAME --seconds 60     look for files that break a reader
    python -m tests.fuzz NAME --case 123       read the file of a case again, and keep it
    python -m tests.fuzz --list                the names

`targets` lists the readers, `mutate` says what is done to valid files, `run` does it.
"""
