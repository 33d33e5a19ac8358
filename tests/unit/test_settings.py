"""The settings table: units are explicit, every row follows from its name, and mistakes are named."""

from __future__ import annotations

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolrt.errors import ConfigurationError
from poolrt.settings import Burst, Kind, Setting, Settings, parse_burst, settings_from, table
from poolrt.units import format_duration, format_size, parse_duration, parse_size


@given(st.integers(0, 10**10).map(lambda milliseconds: milliseconds / 1000))
def test_durations_come_back(seconds: float) -> None:
    """A duration of whole milliseconds is written so that it is read as the same."""
    assert math.isclose(parse_duration(format_duration(seconds)), seconds, abs_tol=0.0005)


@given(st.integers(0, 10**10))
def test_whole_seconds_come_back_exactly(seconds: int) -> None:
    """A duration of whole seconds loses nothing."""
    assert parse_duration(format_duration(seconds)) == seconds


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("60s", 60), ("250ms", 0.25), ("1m30s", 90), ("1h", 3600), ("2d", 172800), ("1.5h", 5400), ("0", 0),
        ("90", 90), (" 5S ", 5), (5, 5), (0.5, 0.5), ("1d2h3m4s5ms", 93784.005),
    ],
)  # fmt: skip
def test_durations_are_read(text: str | float, seconds: float) -> None:
    """Units may be combined; a bare number is seconds."""
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text",
    ["", "s", "fast", "-5s", "5 s", "1h-5m", "5w", "1e3", "0x10", "inf", "nan", -1, math.inf, math.nan, True, None],
)
def test_other_durations_are_refused(text: object) -> None:
    """What is no duration, is negative or endless is refused, quoting it."""
    with pytest.raises(ConfigurationError, match=f"{re.escape(repr(text))} is not a duration"):
        parse_duration(text)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (0.25, "250ms"), (1, "1s"), (90, "1m30s"), (3600, "1h"), (86400 + 0.5, "1d0.5s"), (45.0, "45s")],
)
def test_durations_are_written(seconds: float, text: str) -> None:
    """Durations are written with the largest units that fit."""
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("text", "size"),
    [("512MiB", 2**29), ("2GB", 2 * 10**9), ("1KiB", 1024), ("7B", 7), ("1.5 GiB", 3 * 2**29), ("512mib", 2**29)],
)
def test_sizes_are_read(text: str, size: int) -> None:
    """Binary and decimal units mean what they say, in any case."""
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["512", 512, "0.5", "MiB", "-1MiB", "512M", "512 MBit", "", "lots", None, "1e3MB"])
def test_sizes_without_a_unit_are_refused(text: object) -> None:
    """A bare number could be bytes or KiB, and is refused with advice."""
    with pytest.raises(ConfigurationError, match="is not a size with a unit; write"):
        parse_size(text)  # type: ignore[arg-type]


def test_a_bare_zero_is_a_size() -> None:
    """Nothing is nothing in every unit, so 0 needs none."""
    assert parse_size("0") == parse_size(0) == parse_size("0B") == 0


def test_a_bare_size_is_answered_with_both_readings() -> None:
    """The advice shows the number with its unit."""
    with pytest.raises(ConfigurationError, match="write 512MiB or 512B"):
        parse_size(512)


@given(st.integers(0, 2**50))
def test_sizes_come_back_nearly(size: int) -> None:
    """A size is written with one decimal, and is read as nearly the same."""
    assert parse_size(format_size(size)) == pytest.approx(size, rel=0.06, abs=1)


def test_bursts() -> None:
    """A burst is COUNT/DURATION and nothing else."""
    assert parse_burst("10/60s") == Burst(10, 60.0)
    for text in ("10", "/60s", "0/60s", "-1/60s", "x/60s", "10/x", "10/"):
        with pytest.raises(ConfigurationError):
            parse_burst(text)


@pytest.mark.parametrize("setting", table(), ids=lambda setting: setting.name)
def test_each_row_is_whole(setting: Setting) -> None:
    """Each setting has its flag, environment name, group and sentence, and its default is written as it is read."""
    assert setting.flag == "--" + setting.name.replace("_", "-")
    assert setting.env == "POOLRT_" + setting.name.upper()
    assert setting.row.group
    assert setting.row.help.endswith(".")
    assert setting.parse(setting.default_text) == setting.default
    assert settings_from({setting.name: setting.default_text}) == Settings()
    if setting.row.kind is Kind.CHOICE:
        assert setting.default in setting.row.choices


def test_names_are_unique() -> None:
    """No two settings share a flag, short ones included."""
    flags = [flag for setting in table() for flag in (setting.flag, *setting.row.flags)]
    assert len(flags) == len(set(flags))


def test_values_are_read_by_kind() -> None:
    """Texts and values alike become the setting's type; None is the default."""
    made = settings_from(
        {
            "concurrency": "4",
            "graceful_timeout": "1m",
            "restart_burst": "3/10s",
            "log_level": "debug",
            "node_name": None,
        }
    )
    assert made == Settings(concurrency=4, graceful_timeout=60.0, restart_burst=Burst(3, 10.0), log_level="debug")
    assert settings_from({"restart_burst": Burst(2, 5.0)}).restart_burst == Burst(2, 5.0)


@pytest.mark.parametrize(
    ("name", "hint"),
    [("concurency", "; did you mean 'concurrency'?"), ("max_task_per_child", "; did you mean 'max_tasks_per_child'?")],
)
def test_a_misspelt_name_gets_the_nearest(name: str, hint: str) -> None:
    """An unknown setting is refused with the known one it resembles."""
    with pytest.raises(ConfigurationError, match=re.escape(f"unknown setting {name!r}{hint}")):
        settings_from({name: 1})


def test_a_strange_name_gets_no_hint() -> None:
    """An unknown setting that resembles none is refused without a guess."""
    with pytest.raises(ConfigurationError, match=r"^unknown setting 'zzz'$"):
        settings_from({"zzz": 1})


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"concurrency": "many"}, "concurrency: 'many' is not a whole number"),
        ({"concurrency": 2.5}, "concurrency: 2.5 is not a whole number"),
        ({"concurrency": -1}, "concurrency must be at least 0, not -1"),
        ({"max_deliveries": 0}, "max_deliveries must be at least 1"),
        ({"boot_timeout": "0s"}, "boot_timeout must be at least 0.1"),
        ({"time_limit": "soon"}, "time_limit: 'soon' is not a duration"),
        ({"log_level": "loud"}, "log_level must be one of debug, info, warning, error, not 'loud'"),
        ({"max_tasks_jitter": 91}, "max_tasks_jitter is a percentage up to 90, not 91"),
        ({"node_name": "a/b"}, "node_name 'a/b': use up to 64 letters"),
        ({"node_name": "." * 3}, "a letter or digit first"),
        ({"node_name": "n" * 65}, "use up to 64"),
        (
            {"leak_policy": "threads=shoot"},
            "leak_policy: 'threads=shoot' is no leak policy: write KIND=ACTION, with a kind of",
        ),
        ({"leak_policy": "comets"}, "leak_policy: 'comets' is no leak policy"),
        ({"leak_allow": "db:*"}, "leak_allow: 'db:*' is no allowed leak: write KIND:PATTERN, with a kind of *,"),
        ({"restart_burst": "often"}, "restart_burst: 'often' is not COUNT/DURATION"),
    ],
)
def test_wrong_values_name_their_setting(values: dict[str, object], said: str) -> None:
    """A refused value is told with its setting's name and what would do."""
    with pytest.raises(ConfigurationError, match=re.escape(said)):
        settings_from(values)
