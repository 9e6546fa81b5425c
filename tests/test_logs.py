"""What is logged looks like what was logged, whatever a service says."""

from __future__ import annotations

import logging
import sys

import pytest

from providers.errors import RejectedError
from routing.logs import MaskingFormatter, mask_error, masked_description, visible

FORGED = "boom\n2026-01-01 00:00:00,000 ERROR   sparklio.server: forged \x1b[31mred\r\u2028\u202e\x85"


def logged(message: str, *args: object, error: BaseException | None = None) -> str:
    info = (type(error), error, error.__traceback__) if error else None
    record = logging.LogRecord("routing", logging.WARNING, "x.py", 1, message, args, info)
    return MaskingFormatter(["geheimnis"]).format(record)


def test_a_message_is_one_line_that_steers_nothing() -> None:
    line = logged("it said %s: 그대로, geheimnis", FORGED)
    assert line.splitlines() == [line]
    assert line.endswith(
        "WARNING routing: it said boom\\n2026-01-01 00:00:00,000 ERROR   sparklio.server: forged "
        "\\x1b[31mred\\r\\u2028\\u202e\\x85: 그대로, ***"
    )


def test_a_trace_keeps_its_lines_and_none_of_them_looks_like_a_message() -> None:
    group = ExceptionGroup("some", [ValueError(FORGED)])
    group.add_note(FORGED)
    for failure in (ValueError(FORGED + "geheimnis"), SyntaxError(FORGED), group):
        try:
            raise failure
        except Exception:  # noqa: BLE001  # any of them
            error = sys.exception()
        first, *trace = logged("it failed", error=error).split("\n")
        assert first.endswith("it failed")
        assert trace[0].strip().lstrip("+ ").startswith(("Traceback", "Exception Group Traceback"))
        assert len(trace) > 3
        assert all(line.startswith("    ") for line in trace)
        assert all(line.isprintable() for line in trace)
        assert not any("geheimnis" in line for line in trace)


def test_a_trace_that_another_handler_has_shown_already_is_shown_as_ours() -> None:
    try:
        raise ValueError(FORGED)
    except ValueError as exc:
        record = logging.LogRecord("routing", 30, "x.py", 1, "x", (), (type(exc), exc, exc.__traceback__))
    logging.Formatter().format(record)
    assert "\n2026" not in MaskingFormatter().format(record)


def test_an_error_tells_nothing_that_steers() -> None:
    error = RejectedError(f"it said {FORGED}", provider="p", hint=FORGED, details={"said": FORGED, "n": 1})
    shown = masked_description(error, ())
    mask_error(error, ())
    for text in (error.message, error.hint, str(error), error.details["said"], shown["message"], shown["hint"]):
        assert "\x1b" not in text
        assert "\\x1b[31mred" in text
    assert error.details["n"] == 1


@pytest.mark.parametrize("text", ["", "plain", "한국어 — “so”", "a  b"])
def test_what_steers_nothing_stays(text: str) -> None:
    assert visible(text) == text
