"""Workflows: signatures and what is made of them, run step by step by the children themselves.

    producer   canvas ──compiling──▶ Line of steps ──starting──▶ messages, groups ──planning──▶ enqueue
                                                                    │ a message carries the steps after it
    child      its value ──following──▶ starting: the next step's message, in the settle of this one
               its failure ──following──▶ the record of the last step, the slot of its group, errbacks
    broker     counts the members of a group in their settles, and enqueues its body

All ids are derived from the result's (``ids``), so that whoever starts a workflow, or a part of it, twice starts it
once. No part of a workflow polls, waits or lives in a process: between two steps it is only what the broker stores.
"""
