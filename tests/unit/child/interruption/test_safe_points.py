"""`points_of` reads what this Python's compiler writes."""

from __future__ import annotations

import sys
import types

from poolrt.child.safe_points import points_of


def test_functions_that_read_as_cleanups_do():  # noqa: C901  a specimen of each block
    """`points_of`: bodies of ``finally`` and ends of ``with`` are cleanups, bodies of ``except`` are not."""

    def function(lock, call):
        try:
            call(1)
        except (ValueError, KeyError):
            call(2)
            with lock:
                return
        except:  # noqa: E722
            call(3)
        else:
            call(4)
        finally:
            try:
                call(5)
            except ValueError:
                call(6)
        with lock:
            call(7)
        while call(8):
            pass
        try:
            for _ in call(9):
                call(10)
        finally:
            call(11)
        return

    code = function.__code__
    points = points_of(code)
    with open(__file__) as file:
        lines = file.read().splitlines()
    where = dict.fromkeys(range(0, len(code.co_code), 2))
    for start, end, line in code.co_lines():
        where.update(dict.fromkeys(range(start, end, 2), line))

    def text(offsets):
        return {lines[where[offset] - 1].strip() for offset in offsets if where[offset]}

    assert not points.raisable & points.cleanup
    raisable, cleanup = text(points.raisable), text(points.cleanup)
    for i in (5, 6, 11):
        assert f"call({i})" in cleanup - raisable
    for i in (1, 2, 3, 4, 7, 10):
        assert f"call({i})" in raisable - cleanup
    assert {"with lock:"} <= cleanup - raisable
    assert not {"try:", "finally:"} & raisable


def test_all_code_that_is_loaded_can_be_read():
    """No function of the modules loaded here, compiled by this Python, upsets `points_of`."""
    codes = [
        function.__code__
        for module in list(sys.modules.values())
        for function in list(vars(module).values())
        if isinstance(function, types.FunctionType) and function.__code__.co_exceptiontable
    ]
    assert len(codes) > 200
    for code in codes[:1500]:
        points = points_of(code)
        assert not points.raisable & points.cleanup
