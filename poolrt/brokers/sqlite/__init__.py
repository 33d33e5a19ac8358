"""The embedded broker: one SQLite file, the default. ``broker`` holds the class; see docs/explanation/sqlite.md.

=============  =================================================================================================
`broker`       ``SqliteBroker``: each call of the contract as one transaction and what is told afterwards
`producers`    its calls for those who enqueue, wait and cancel
`operators`    its calls for people who look after queues
`store`        the process's one connection: opened lazily, locked, closed around a fork, errors translated
`fork`         closes the stores of the process before a fork
`failures`     from SQLite's errors to the broker's
`claims`       the bounded, fair queue of writers in front of SQLite's own lock
`schema`       the tables, their version and the migrations
`statements`   every SQL statement, named; those that read single queues are in `queue_statements`, those of gates in
               `gate_statements`, those of groups in `group_statements`
`placing`      what puts messages in the queue: enqueue, follow-ups, promote, requeue
`uniques`      which message has a unique key
`ahead`        ids that are known before they are enqueued
`groups`       which members of a group have succeeded, and what follows
`holding`      what owners hold: attach, reserve, release, recall, and what of it is to be cancelled
`choosing`     reserving where more is to be looked at than one index: chosen or paused queues, gates, suspects
`gates`        limits of a key: rates and slots, and what they let start
`queues`       single queues: pauses, what waits, and what operators do to one
`ending`       what ends deliveries and owners: settle, bury, rescue
`sweeping`     forgets what is kept for its time only
`wakes`        datagrams to idle children, stewards and waiters
=============  =================================================================================================
"""

from poolrt.brokers.sqlite.broker import SqliteBroker

__all__ = ["SqliteBroker"]
