"""process_apps whose first settle with an outcome stops its process in the middle of its transaction."""

import os
import signal

import process_apps

from poolrt.brokers.sqlite import ending

app = process_apps.app
_settle = ending.settle


def settle(db, held, outcomes, now, news):
    """Stop once, by a file that only one process can make."""
    done = _settle(db, held, outcomes, now, news)
    try:
        os.close(os.open(os.environ["TEST_BROKER"].removeprefix("sqlite:///") + ".stopped", os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return done
    os.kill(os.getpid(), signal.SIGSTOP)
    return done


ending.settle = settle
