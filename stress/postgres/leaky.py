"""The tasks of the scenario, the same code on both: each asks PostgreSQL once, and some forget to close.

Each run writes one letter to the ledger: what came of it. ``KEPT`` is what an app keeps by mistake: a cache, a request
context, a list of callbacks; nothing collects it.
"""

from __future__ import annotations

import os
import random
from typing import Final

import sqlalchemy as sa
from sqlalchemy.orm import Session

OK, REFUSED, POOL_EMPTY, OTHER = b"o", b"r", b"p", b"x"
TITLES: Final = {OK: "done", REFUSED: "too many connections", POOL_EMPTY: "pool empty", OTHER: "other"}
QUERY: Final = sa.text("select 1")

engine = sa.create_engine(os.environ.get("LEAKY_DATABASE", "postgresql+psycopg://"), pool_timeout=1)
KEPT: list[object] = []
_ledger = os.open(os.environ.get("LEAKY_LEDGER", os.devnull), os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)


def session(rate: float) -> None:
    """A session that is closed, but at this rate."""
    used = Session(engine)
    used.execute(QUERY)
    _keep_or_close(used, rate)


def connection(rate: float) -> None:
    """A connection of the engine's pool that is closed, but at this rate; it is in no transaction."""
    used = engine.connect()
    used.execute(QUERY)
    used.commit()
    _keep_or_close(used, rate)


def _keep_or_close(used: Session | sa.Connection, rate: float) -> None:
    if random.random() < rate:
        KEPT.append(used)
    else:
        used.close()


LEAKS: Final = {"session": session, "connection": connection}


def run(kind: str, rate: float) -> None:
    """One task: what came of it goes to the ledger."""
    outcome = OTHER
    try:
        LEAKS[kind](rate)
        outcome = OK
    except sa.exc.TimeoutError:
        outcome = POOL_EMPTY
    except sa.exc.OperationalError as error:
        outcome = REFUSED if "too many" in str(error) or "remaining connection slots" in str(error) else OTHER
    finally:
        os.write(_ledger, outcome)
