"""The SQL statements of groups, and of ids that are known before they are enqueued.

Filled slots are bits, ``groups.WIDTH`` of them in a row: 10,000 members are 159 small rows, and each fill changes one.
"""

from __future__ import annotations

from typing import Final

# ---- groups

FORGET_OLD_GROUP: Final = "delete from member_group where id = ? and expires <= ?"
"""Drop a group that is past its time, so that one of its id can be made. ``schema.GROUP_GONE`` drops its slots."""

MAKE: Final = """
insert into member_group (id, size, missing, collects, expires) values (?, ?, ?, ?, ?) on conflict (id) do nothing"""
"""Make a group unless it is known."""

KEEP_PLAN: Final = "insert into group_plan (grp, plan) values (?, ?)"
"""Keep what follows it, which is read once and may be large."""

GROUP: Final = "select seq, size, missing, failed, collects from member_group where id = ? and expires > ?"
"""A group that is not past its time."""

FILLED: Final = "select bits from filled where grp = ? and word = ?"
"""Which of some slots are filled."""

FILL: Final = "insert or replace into filled (grp, word, bits) values (?, ?, ?)"
"""Which of them are filled now."""

MISSING: Final = "update member_group set missing = ? where seq = ?"
"""How many slots are not filled yet."""

FAILED: Final = "update member_group set failed = 1 where seq = ?"
"""A member has failed."""

PLAN: Final = "select plan from group_plan where grp = ?"
"""What follows a group."""

FORGET_GROUP: Final = "delete from member_group where seq = ?"
"""It is full."""

OLD_GROUPS: Final = "select id from member_group where expires <= ? limit ?"
"""Groups past their time."""

SWEEP_GROUPS: Final = "delete from member_group where id in (select value from json_each(?)) and expires <= ?"
"""Forget them, those that still are."""

# ---- ids that are known before they are enqueued

PLANNED: Final = """
insert into planned (id, expires) select ?, ? where not exists (select 1 from record where id = ?)
on conflict (id) do update set expires = excluded.expires"""
"""An id, given twice, is known from now on unless it has ended. The row stays while its message waits or runs."""

FORGET_PLANNED: Final = "delete from planned where id in (select value from json_each(?))"
"""These have ended."""

OLD_PLANNED: Final = "select id from planned where expires <= ? limit ?"
"""What was not enqueued within its time."""

SWEEP_PLANNED: Final = "delete from planned where id in (select value from json_each(?)) and expires <= ?"
"""Forget it, if it still is."""

RECORD_AHEAD: Final = """
insert into record (id, state, lost, expires, data)
select ?, ?, 0, ?, ? where not exists (select 1 from task where id = ?)
on conflict (id) do nothing"""
"""Keep a record of an id, given twice, of which there is neither message nor record."""

RECORDS: Final = "select id, data from record where id in (select value from json_each(?))"
"""The records of these ids."""
