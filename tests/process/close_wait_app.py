"""The app of process_apps, in whose children a peer has been gone for long after half a second."""

from process_apps import app

from poolrt.hygiene import descriptor_verdicts, descriptors

__all__ = ["app"]

descriptor_verdicts.PEER_GONE_FOR = 0.5
descriptors._PEERS_EVERY = 0.1
