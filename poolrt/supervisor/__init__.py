"""The supervisor: starts the template, asks it for children, watches, judges, kills and replaces them.

It never runs user code, does broker I/O, starts a thread or makes a blocking call, so that nothing a task
does can break it (PostgreSQL's postmaster rule).
"""
