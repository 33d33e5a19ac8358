"""Connections that tasks take out of pools, and what becomes of them.

    the app's own pools ──taken, given back──▶ CheckedOut ──▶ PoolWatch          what is still out after a run
                                                          └─▶ TransactionWatch   what of it sits in a transaction

=================  ================================================================================================
`checked_out`      what is out of which pool now, told by the libraries as it happens
`sqlalchemy_pools` SQLAlchemy's pools and sessions, by its own events
`method_pools`     redis-py's and psycopg_pool's, which have no events: by their methods for taking and giving back
`opened`           what psycopg and psycopg2 open outside pools
`unpooled`         the sessions outside pools that are known: told of, or found by a search
`drivers`          what a driver's connection tells: where it leads, whether it is in a transaction
`watch`            `PoolWatch`: what a task does not give back is a leak
`rest`             what is left to tell when the child leaves
=================  ================================================================================================

No library is imported here: one that the app has imported is followed from then on.
"""
