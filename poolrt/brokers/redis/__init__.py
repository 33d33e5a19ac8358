"""Redis and Valkey as broker and result store. Loads redis-py, so it is imported only when a URL asks for it.

address.py     a URL                      connecting.py, sentinel.py, cluster.py   a connection to the right server
broker.py      the contract               calls.py, owner.py, bell.py              who says what on which connection
lua/           what the server does       wire.py, scripts.py, channel.py          how it is said
failures.py    errors in our words        mending.py                               foreign data in our keys
"""

from poolrt.brokers.redis.broker import RedisBroker

__all__ = ["RedisBroker"]
