"""``poolrt top``: one node on a terminal, live.

    keys ──▶ keys.py ──▶ state.py on_key ──▶ State, requests ─┐
                                                              ├─▶ loop.py ──▶ link.py ══▶ supervisor
    status ◀── link.py ◀══ supervisor (control socket)        │
      └──▶ rates.py, state.py with_status ──▶ State ──▶ screen.py ──▶ lines ──▶ painter.py ──▶ terminal

``loop`` alone waits and acts; ``keys``, ``state``, ``rates`` and ``screen`` are pure and know no terminal.
"""
