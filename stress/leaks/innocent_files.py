"""Workloads that keep files open, or open and close them, and leak nothing."""

from __future__ import annotations

import itertools
import logging
import logging.handlers
import mmap
import os
import sqlite3
import tempfile
from collections import OrderedDict
from functools import lru_cache
from typing import Any

from stress.leaks.innocent import Run, innocent
from stress.leaks.site import Site


@innocent
def cache_of_256_files(site: Site) -> Run:
    """One more file, of another path, is opened and kept at each run; then all are hits."""

    @lru_cache(256)
    def opened(number: int) -> Any:
        path = site.folder / f"part-{number}"
        path.write_bytes(b"data")
        return path.open("rb")

    runs = itertools.count()
    return lambda: os.pread(opened(next(runs) % 256).fileno(), 4, 0)


@innocent
def lru_of_64_files(site: Site) -> Run:
    """Files of paths drawn from 500; the oldest is closed."""
    kept: OrderedDict[int, Any] = OrderedDict()

    def run() -> None:
        key = site.rng.randrange(500)
        if key not in kept:
            if len(kept) == 64:
                kept.popitem(last=False)[1].close()
            path = site.folder / f"part-{key}"
            path.write_bytes(b"data")
            kept[key] = path.open("rb")
        kept.move_to_end(key)
        kept[key].read()

    return run


@innocent
def logger_that_rotates(site: Site) -> Run:
    """Its file is closed and opened again in every few dozen runs."""
    handler = logging.handlers.RotatingFileHandler(site.folder / "app.log", maxBytes=4000, backupCount=3)
    record = logging.LogRecord("app", logging.INFO, "", 0, "x" * 80, None, None)
    return lambda: handler.emit(record)


@innocent
def handler_of_each_logger(site: Site) -> Run:
    """Nine handlers to one file, one more in a hundred runs; most loggers are silent."""
    handlers: list[logging.FileHandler] = []
    record = logging.LogRecord("app", logging.INFO, "", 0, "text", None, None)
    runs = itertools.count()

    def run() -> None:
        if next(runs) % 100 == 0 and len(handlers) < 9:
            handlers.append(logging.FileHandler(site.folder / "all.log"))
            handlers[-1].emit(record)
        handlers[0].emit(record)

    return run


@innocent
def sqlite_connection(site: Site) -> Run:
    """One connection in WAL mode: three files."""
    base = sqlite3.connect(site.folder / "one.db", isolation_level=None)
    base.execute("pragma journal_mode=wal")
    base.execute("create table t(x)")
    return lambda: base.execute("insert into t values (1)")


@innocent
def sqlite_pool_of_15(site: Site) -> Run:
    """Fifteen connections to one file, one more in a hundred runs."""
    path = site.folder / "pool.db"
    kept: list[sqlite3.Connection] = []
    runs = itertools.count()

    def run() -> None:
        if next(runs) % 100 == 0 and len(kept) < 15:
            kept.append(sqlite3.connect(path, isolation_level=None))
            kept[-1].execute("create table if not exists t(x)")
        site.rng.choice(kept).execute("select count(*) from t").fetchall()

    return run


@innocent
def temporary_files(site: Site) -> Run:
    """Made, written, closed, removed."""

    def run() -> None:
        with tempfile.NamedTemporaryFile() as file, tempfile.TemporaryFile() as other:
            file.write(b"x")
            other.write(b"y")

    return run


@innocent
def mapped_files(site: Site) -> Run:
    """Twelve maps of one file, one more in a hundred runs; each keeps a descriptor."""
    path = site.folder / "model"
    path.write_bytes(b"x" * 4096)
    kept: list[mmap.mmap] = []
    runs = itertools.count()

    def run() -> None:
        if next(runs) % 100 == 0 and len(kept) < 12:
            with path.open("rb") as file:
                kept.append(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        return site.rng.choice(kept)[0]

    return run
