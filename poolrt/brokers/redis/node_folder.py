"""Where the nodes of a server's store keep their lock, board and sockets on this machine."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from poolrt.posix.files import make_private_directory


def node_folder(store: str) -> Path:
    """The folder for the nodes of this user that work on ``store``; made, mode 0700.

    Below ``XDG_STATE_HOME`` (``~/.local/state``), which nobody cleans: a lock that is deleted while its node runs
    proves nothing any more (protocol.md, rule 16). A name that says which store, and a digest that keeps two apart.
    """
    home = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    plain = "".join(letter if letter.isalnum() else "-" for letter in store).strip("-")[:40]
    digest = hashlib.sha256(store.encode()).hexdigest()[:12]
    folder = Path(home, "poolrt", f"{plain}-{digest}")
    folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    make_private_directory(str(folder))
    return folder
