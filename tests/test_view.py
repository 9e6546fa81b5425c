"""What the terminal shows of a run, tested from recorded consoles."""

from __future__ import annotations

from io import BytesIO, StringIO, TextIOWrapper
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from sparklio.plain_text import one_line
from sparklio.tables import history_tree, run_summary, runs_table, settings_table
from sparklio.view import LiveView, PlainView, Progress, make_view

NODES = ["brand", "brief", "strategist", "copywriter", "vision", "reviewer"]
RUN = "20260726-143012-a1b2"
TAIL = '{"headline": "듣고 싶은 소리만 남깁니다", "subheadline": "출퇴근 지하철에서도 또렷하게"'


def event(kind: str, node: str | None = None, at: int = 0, **data: Any) -> dict[str, Any]:
    return {"seq": 1, "run_id": RUN, "type": kind, "node": node, "at": "", "elapsed_ms": at, "data": data}


def started(**data: Any) -> dict[str, Any]:
    defaults: dict[str, Any] = {"mode": "mock", "nodes": NODES, "resumed": False}
    return event("run_started") | {"data": defaults | data}


def finished(node: str, at: int = 1000, *, cached: bool = False, model: str = "qwen2.5:14b") -> dict[str, Any]:
    usage = {"prompt_tokens": 12, "completion_tokens": 800, "total_tokens": 812}
    data = {"usage": usage, "cached": cached, "checkpoint_id": "c", "ms": 700, "attempts": 1}
    return event("node_finished", node, at, provider="ollama", model=model, **data)


FAILURE = {"code": "model_not_found", "message": "no model 'qwen2.5:14b'", "hint": "ollama pull qwen2.5:14b"}
USAGE = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 4812}


def screen(*events: dict[str, Any], width: int = 80, later: float = 0, stop: bool = False) -> str:
    """What the live view shows after the events, and ``later`` seconds more."""
    now = [0.0]
    console = Console(file=StringIO(), width=width, force_terminal=True, color_system=None)
    view = LiveView(console, clock=lambda: now[0])
    for item in events:
        view.update(item)
    now[0] += later
    if stop:
        view.__exit__(None, None, None)
    with console.capture() as captured:
        console.print(view.render())
    lines = captured.get().splitlines()
    assert all(cell_len(line) <= width for line in lines)
    return "\n".join(line.rstrip() for line in lines)


def line_of(node: str, text: str) -> str:
    (line,) = [line for line in text.splitlines() if line[2:].startswith(node)]
    return line


# What the events tell -----------------------------------------------------------------------------------------


def progress(*events: dict[str, Any]) -> Progress:
    found = Progress()
    for item in events:
        found.apply(item)
    return found


def test_a_node_from_start_to_end():
    run = progress(started(), event("node_started", "brand", 100))
    assert (run.run_id, run.mode, list(run.nodes)) == (RUN, "mock", NODES)
    node = run.nodes["brand"]
    assert (node.status, node.elapsed(600)) == ("running", 500)
    run.apply(finished("brand", 900))
    assert (node.status, node.provider, node.model, node.tokens) == ("done", "ollama", "qwen2.5:14b", 812)
    assert node.elapsed(5000) == 700


def test_a_new_attempt_voids_what_was_streamed():
    run = progress(started(), event("node_started", "brief"), *[event("token", "brief", text="a", attempt=1)] * 3)
    assert (run.nodes["brief"].streamed, run.nodes["brief"].text) == (3, "aaa")
    run.apply(event("token", "brief", text="b", attempt=2))
    assert (run.nodes["brief"].streamed, run.nodes["brief"].text, run.nodes["brief"].attempt) == (1, "b", 2)


def test_a_revision_adds_up():
    once = [event("node_started", "reviewer"), finished("reviewer")]
    node = progress(started(), *once, *once).nodes["reviewer"]
    assert (node.runs, node.tokens, node.spent_ms) == (2, 1624, 1400)


def test_memory_of_the_text_is_bounded():
    run = progress(started(), *[event("token", "brief", text="x" * 50, attempt=1)] * 100)
    assert len(run.nodes["brief"].text) == 200


def test_unknown_kinds_and_nodes_are_no_error():
    run = progress(started(nodes=[]), event("something_new", "brief"), event("run_paused"), finished("extra"))
    assert run.nodes["extra"].status == "done"


def test_what_is_under_way_at_the_end_was_interrupted():
    run = progress(started(), event("node_started", "vision", 100), event("token", "brief", 900, text="x"))
    run.stop()
    assert (run.status, run.nodes["vision"].status, run.nodes["vision"].spent_ms) == ("interrupted", "interrupted", 800)
    assert run.nodes["reviewer"].status == "waiting"


# In place ------------------------------------------------------------------------------------------


def test_one_line_per_agent_and_a_header():
    lines = screen(started()).splitlines()
    assert lines[0].startswith(f"Sparklio  {RUN}")
    assert "MOCK" in lines[0]
    assert [line.split()[1] for line in lines[1:]] == NODES


def test_live_mode_is_not_marked_as_mock():
    text = screen(started(mode="live", resumed=True))
    assert "MOCK" not in text
    assert "resumed" in text.splitlines()[0]
    assert "live" in text.splitlines()[0]


def test_states_of_the_lines():
    text = screen(
        started(),
        event("node_started", "brand"), finished("brand", cached=True),
        event("node_started", "brief"), finished("brief"),
        event("node_started", "strategist"),
        event("node_started", "copywriter"), *[event("token", "copywriter", 2000, text=TAIL, attempt=2)] * 7,
        event("node_started", "vision", 2000), event("image_progress", "vision", 2000, step=10, steps=20),
    )  # fmt: skip
    assert "reused" in line_of("brand", text)
    assert line_of("brief", text).split() == ["✓", "brief", "ollama", "qwen2.5:14b", "812", "tokens", "0.7s"]
    assert "waiting for the model" in line_of("strategist", text)
    assert "7 tok  try 2" in line_of("copywriter", text)
    assert '또렷하게"' in line_of("copywriter", text)
    assert "━━━━━━━─────── 10/20" in line_of("vision", text)
    assert line_of("reviewer", text) == "· reviewer"


def test_running_times_go_on_between_events():
    text = screen(started(), event("node_started", "brand", 1000), later=2.5)
    assert line_of("brand", text).endswith(" 2.5s")
    assert text.splitlines()[0].endswith(" 3.5s")
    assert screen(started(), event("node_started", "brand", 0), later=125).splitlines()[0].endswith("2m05s")


def test_a_revision_is_marked():
    once = [event("node_started", "copywriter"), finished("copywriter")]
    assert "copywriter x2" in line_of("copywriter", screen(started(), *once, *once))


def test_a_failure_shows_where_the_command_says_why():
    text = screen(
        started(),
        event("node_started", "vision"),
        event("node_started", "copywriter"),
        event("node_failed", "copywriter", 900, **FAILURE),
        event("run_failed", None, 1000, **FAILURE),
        stop=True,
    )
    assert "✗ copywriter" in text
    assert "model_not_found" in line_of("copywriter", text)
    assert "interrupted" in line_of("vision", text)
    assert "hint" not in text


def test_the_end_of_a_run():
    text = screen(
        started(), event("run_finished", None, 3000, result="r", page="p", wall_ms=2900, usage=USAGE), stop=True
    )
    assert text.splitlines()[-1] == "done in 2.9s  4,812 tokens"


@pytest.mark.parametrize("width", [30, 44, 55, 56, 60, 79, 80, 120, 200])
def test_nothing_wraps_at_any_width(width):
    events = [
        started(),
        event("node_started", "brand"),
        finished("brand", model="hf.co/someone/a-very-long-model-name:Q4"),
    ]
    events += [event("node_started", "copywriter"), event("token", "copywriter", text=TAIL, attempt=12)]
    events += [event("node_started", "vision"), event("image_progress", "vision", step=100, steps=100)]
    assert len(screen(*events, width=width).splitlines()) == 1 + len(NODES)


def test_text_of_models_cannot_steer_the_terminal():
    evil = "a\x1b[2J\x07\r\nb\u202e\x9bc"
    assert one_line(evil) == "a[2J bc"
    text = screen(
        started() | {"run_id": evil}, event("node_started", "brief"), event("token", "brief", text=evil, attempt=1)
    )
    assert "a[2J bc" in line_of("brief", text)
    assert "\x1b" not in text


def test_square_brackets_are_no_markup():
    text = screen(started(), event("node_started", "brief"), event("token", "brief", text="[red]x[/nope]", attempt=1))
    assert "[red]x[/nope]" in text


def test_it_draws_by_itself_and_leaves_the_last_state():
    raw = StringIO()
    with LiveView(Console(file=raw, width=80, force_terminal=True, color_system=None)) as view:
        view.update(started())
        view.update(event("node_started", "brand"))
        view.update(finished("brand"))
    assert "812 tokens" in raw.getvalue().rpartition("Sparklio")[2]


# Line by line ------------------------------------------------------------------------------------------


def plain(*events: dict[str, Any]) -> list[str]:
    raw = StringIO()
    with PlainView(raw) as view:
        for item in events:
            view.update(item)
    return raw.getvalue().splitlines()


def test_one_plain_line_per_event():
    assert plain(
        started(),
        event("node_started", "copywriter", 400),
        event("token", "copywriter", 500, text="x", attempt=1),
        event("image_progress", "vision", 600, step=1, steps=2),
        finished("copywriter", 1234),
        finished("brand", 1300, cached=True),
        event("node_failed", "vision", 65000, **FAILURE),
        event("run_failed", None, 65100, **FAILURE),
        event("run_finished", None, 123456, usage=USAGE),
    ) == [
        f"[  0.0s] run {RUN} started  mode MOCK",
        "[  0.4s] copywriter started",
        "[  1.2s] copywriter finished  ollama qwen2.5:14b  812 tokens",
        "[  1.3s] brand finished  ollama qwen2.5:14b  812 tokens  reused",
        "[ 65.0s] vision failed  model_not_found",
        "[ 65.1s] run failed  model_not_found",
        "[123.5s] run finished  4,812 tokens",
    ]


def test_plain_lines_are_never_broken():
    (line,) = plain(event("node_failed", "vision", 0, code="word " * 60, message="", hint=""))
    assert line.count("word") == 60


def test_a_stream_without_korean_gets_question_marks():
    raw = TextIOWrapper(BytesIO(), encoding="ascii", write_through=True)
    view = make_view(Console(file=raw, force_terminal=True), plain=False)
    assert isinstance(view, PlainView)
    view.update(event("node_failed", "vision", 0, code="그림", message="", hint=""))
    raw.seek(0)
    assert raw.read() == "[  0.0s] vision failed  ??\n"


def test_the_view_follows_the_console():
    terminal = Console(file=StringIO(), force_terminal=True, width=80)
    assert isinstance(make_view(terminal, plain=False), LiveView)
    assert isinstance(make_view(terminal, plain=True), PlainView)
    assert isinstance(make_view(Console(file=StringIO()), plain=False), PlainView)
    assert isinstance(make_view(StringIO(), plain=False), PlainView)


# Tables ------------------------------------------------------------------------------------------


def record(run_id: str, parent: tuple[str, str] | None = None, status: str = "done", minute: int = 0) -> dict[str, Any]:
    return {
        "run_id": run_id,
        "status": status,
        "mode": "mock",
        "product": "소리결 에어 2 무선 이어폰",
        "created_at": f"2026-07-26T05:{minute:02}:00+00:00",
        "parent": {"run_id": parent[0], "start_at": parent[1]} if parent else None,
    }


FAMILY = [
    record(RUN),
    record(f"{RUN}.2", (RUN, "copywriter"), minute=5),
    record(f"{RUN}.3", (f"{RUN}.2", "vision"), "failed", 9),
]


def point(run_id: str, number: int, following: list[str], keys: list[str]) -> dict[str, Any]:
    moment = f"2026-07-26T05:00:{number:02}+00:00"
    return {
        "run_id": run_id,
        "checkpoint_id": f"1f0a2b3c-4d{number:02}-6abc",
        "next": following,
        "created_at": moment,
        "keys": keys,
    }


def printed(what: Any, width: int = 80) -> list[str]:
    console = Console(file=StringIO(), width=width, color_system=None)
    with console.capture() as captured:
        console.print(what)
    return [line.rstrip() for line in captured.get().splitlines()]


def test_runs_fit_a_terminal():
    lines = printed(runs_table(FAMILY))
    assert lines[0].split() == ["run", "status", "mode", "product", "from", "created"]
    assert len(lines) == 4
    assert lines[2].startswith(f"{RUN}.2")
    assert "copywriter" in lines[2]
    assert len(printed(runs_table([]))) == 1


def test_history_is_a_tree_of_reruns():
    points = [
        point(RUN, 2, ["copywriter", "vision"], ["brand", "sections"]),
        point(RUN, 1, ["brief"], ["brand"]),
        point(RUN, 3, [], ["brand", "sections", "copy"]),
        point(f"{RUN}.2", 4, ["copywriter"], ["brand", "sections"]),
    ]
    lines = printed(history_tree(FAMILY, points))
    assert lines[0].startswith(RUN)
    assert lines[1].endswith("1f0a2b3c-4d01  next brief  +brand")
    assert lines[2].endswith("next copywriter, vision  +sections")
    assert lines[3].endswith("end  +copy")
    assert f"└── {RUN}.2" in lines[4]
    assert "from copywriter" in lines[4]
    assert lines[5].endswith("next copywriter")
    assert lines[6].startswith("    └── ")
    assert f"{RUN}.3  failed" in lines[6]


def test_a_member_whose_parent_is_gone_is_a_root():
    assert printed(history_tree(FAMILY[1:], []))[0].startswith(f"{RUN}.2")


def test_a_run_in_full():
    nodes = {
        "brand": {"provider": "ollama", "model": "qwen2.5:7b", "ms": 1234, "cached": False, "attempts": 2}
        | {"usage": USAGE},
        "vision": {"provider": "comfyui", "model": "product_shot_v1", "ms": 0, "cached": True, "attempts": 1},
    }
    review = {"approved": False, "score": 71, "summary": "근거 없는 표현"}
    body = FAMILY[1] | {"out": "/home/x/" + "long/" * 30, "error": None}
    text = "\n".join(printed(run_summary(body | {"result": {"review": review, "meta": {"nodes": nodes}}})))
    assert f"from     copywriter of {RUN}\n" in text
    assert "review   71/100, not approved: 근거 없는 표현\n" in text
    assert "brand   ollama qwen2.5:7b" in text
    assert "1.2s   4,812      2\n" in text
    assert "reused" in text
    assert body["out"] in text.replace("\n         ", "")


def test_a_failed_run_in_full():
    text = "\n".join(printed(run_summary(FAMILY[0] | {"status": "failed", "error": FAILURE, "result": None})))
    assert "error    model_not_found: no model 'qwen2.5:14b'\nhint     ollama pull qwen2.5:14b" in text
    assert "from" not in text


def test_settings_say_what_they_hide():
    values: dict[str, dict[str, Any]] = {
        "OLLAMA_BASE_URL": {
            "value": "http://gpu:11434",
            "source": "environment",
            "hides": [{"source": ".env", "value": "http://localhost:11434"}, {"source": "default", "value": "x"}],
        },
        "OPENAI_API_KEY": {"value": None, "source": "default", "hides": []},
    }
    lines = printed(settings_table(values))
    assert [line.split() for line in lines] == [
        ["setting", "value", "source"],
        ["OLLAMA_BASE_URL", "http://gpu:11434", "environment"],
        ["hides", "http://localhost:11434", ".env"],
        ["OPENAI_API_KEY", "not", "set", "default"],
    ]


def test_records_are_data_not_markup():
    odd = record("[red]x[/nope]") | {"product": "\x1b[31m[bold]", "created_at": None}
    lines = printed(runs_table([odd]))
    assert "[red]x[/nope]" in lines[1]
    assert "\x1b" not in "".join(lines)
