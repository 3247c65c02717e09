"""The same fault has one fingerprint from run to run; another fault has another."""

from __future__ import annotations

from typing import Any

import pytest

from projections.shipped.fingerprint import fingerprint, normal_stack

PYTHON = """Traceback (most recent call last):
  File "/home/anna/code/app/run.py", line 12, in main
    fetch(url)
    ^^^^^^^^^^
  File "/home/anna/.venv/lib/python3.11/site-packages/requests/api.py", line 73, in get
    return request("get", url)
  [Previous line repeated 978 more times]
ValueError: <Response at 0x7f3a2b1c> for /tmp/tmpab12/x has no id 4711"""
JAVA = """java.lang.IllegalStateException: order 17 is closed
\tat com.shop.Order.close(Order.java:81)
\tat com.shop.Main$$Lambda$14/0x0000000800066840.run(Unknown Source)
\t... 12 more"""
NODE = """TypeError: Cannot read properties of undefined (reading 'id')
    at load (/srv/releases/20260131120000/node_modules/shop/index.js:10:15)
    at process.processTicksAndRejections (node:internal/process/task_queues:96:5)"""


def of(stack: str, kind: str = "ValueError", message: str = "") -> str:
    return fingerprint({"type": kind, "message": message, "stack": stack})


@pytest.mark.parametrize(
    ("stack", "changes"),
    [
        (PYTHON, {"line 12": "line 13", "line 73": "line 7"}),
        (PYTHON, {"/home/anna/": "/home/bob/", "978": "12"}),
        (PYTHON, {"/home/anna/code": "/Users/bob/code"}),
        (PYTHON, {"/home/anna/.venv/lib/python3.11/site-packages": "/usr/lib/python3.13/site-packages"}),
        (PYTHON, {"    ^^^^^^^^^^\n": ""}),
        (PYTHON, {"0x7f3a2b1c": "0x10", "tmpab12": "tmpzz99", "4711": "1"}),
        (PYTHON, {"\n": "\r\n"}),
        (JAVA, {"Order.java:81": "Order.java:99", "order 17": "order 18"}),
        (JAVA, {"$14/0x0000000800066840": "$3/0x01", "... 12 more": "... 3 more"}),
        (NODE, {"20260131120000": "20260228130000", ":10:15": ":11:1", ":96:5": ":95:5"}),
        (NODE, {"/srv/releases/20260131120000/node_modules/": "/app/node_modules/"}),
    ],
)
def test_what_differs_from_run_to_run_does_not_count(stack: str, changes: dict[str, str]) -> None:
    changed = stack
    for old, new in changes.items():
        assert old in changed
        changed = changed.replace(old, new)
    assert of(changed) == of(stack)


@pytest.mark.parametrize(
    ("stack", "changes"),
    [
        (PYTHON, {"in main": "in other"}),
        (PYTHON, {"run.py": "stop.py"}),
        (PYTHON, {"ValueError:": "TypeError:"}),
        (PYTHON, {"fetch(url)": "store(url)"}),
        (JAVA, {"Order.close": "Order.open"}),
        (NODE, {"at load": "at save"}),
        (NODE, {"shop/index.js": "shop/cart.js"}),
    ],
)
def test_another_place_or_type_is_another_fault(stack: str, changes: dict[str, str]) -> None:
    ((old, new),) = changes.items()
    assert old in stack
    assert of(stack.replace(old, new)) != of(stack)


def test_the_type_that_was_reported_counts() -> None:
    assert of(PYTHON, "KeyError") != of(PYTHON)


def test_the_message_counts_only_where_there_is_no_stack() -> None:
    said = ("the disk is full\non host a7", "no route to the host\nb12 of rack 3")
    stacks = [PYTHON.rpartition(": ")[0] + ": " + text for text in said]
    assert of(stacks[0], message=said[0]) == of(stacks[1], message=said[1])
    assert of(PYTHON, message="a") == of(PYTHON, message="main")
    without = [{"type": "OSError", "message": text} for text in ("disk full", "no route")]
    assert fingerprint(without[0]) != fingerprint(without[1])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("timeout after 30.5 s", "timeout after 7 s"),
        ("no file '/data/a.csv'", "no file '/data/b.csv'"),
        ("can't open /data/a/b.csv", "can't open /data/c/d.csv"),
        ("job 0198f0a2-aaaa-7bbb-8ccc-ddddeeeeffff is gone", "job 0198f0a2-0000-7bbb-8ccc-ddddeeee0000 is gone"),
        ("正在推送 3 个文件", "正在推送 12 个文件"),
    ],
)
def test_of_a_message_numbers_names_and_paths_do_not_count(one: str, other: str) -> None:
    assert fingerprint({"message": one}) == fingerprint({"message": other})


@pytest.mark.parametrize("error", [{}, {"message": None}, {"stack": 5}, {"stack": "\ud800\0"}, {"stack": "\n" * 9}])
def test_anything_has_a_fingerprint(error: dict[str, Any]) -> None:
    assert len(fingerprint(error)) == 32


def test_a_long_stack_takes_no_long_time_and_its_inner_frames_count() -> None:
    deep = "\n".join(f'  File "/x/a.py", line {n}, in f{n % 7}' for n in range(50_000))
    assert len(normal_stack(deep).splitlines()) == 100
    assert of("x" * 200_000 + "\n" + deep) == of(deep)
