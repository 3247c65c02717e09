"""Mutants of the fold: the same rules with one guard bent, to see whether the vectors notice.

A `Lab` holds a copy of the modules that decide, under names of its own, so that the modules in use stay as they are.
`lab.mutants()` bends, one at a time, every comparison, condition, half of an `and`/`or`, `max`/`min` and number in it.
"""

from __future__ import annotations

import ast
import copy
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any, Final

import projections

FOLDER: Final = Path(projections.__file__).parent
DECIDING: Final = ("tree", "plan", "job_rules", "step_rules", "fold")
"""The modules that decide, each after those that it imports; state and numbers hold no guards and are shared."""

FLIPPED: Final[dict[type[ast.cmpop], type[ast.cmpop]]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
BESIDE: Final = ("text_size", "touched", "weights", "_complete(state)")
"""Statements about storage and caches: they decide nothing, and other tests look after them."""

Change = Callable[[], Callable[[], None]]
"""Bends the tree in place and returns what bends it back."""


class Lab:
    """A private copy of the fold, and its mutants."""

    def __init__(self) -> None:
        self.modules: dict[str, ModuleType] = {}
        self.functions: dict[str, list[ast.FunctionDef]] = {}
        private = f"_mutants_{id(self)}"
        for name in DECIDING:
            source = (FOLDER / f"{name}.py").read_text(encoding="utf-8")
            for imported in DECIDING:
                source = source.replace(f"from projections.{imported} import", f"from {private}.{imported} import")
            tree = ast.parse(source)
            self.functions[name] = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
            module = ModuleType(f"{private}.{name}")
            sys.modules[module.__name__] = self.modules[name] = module
            exec(compile(tree, str(FOLDER / f"{name}.py"), "exec"), module.__dict__)
        for module in self.modules.values():
            del sys.modules[module.__name__]

    @property
    def fold(self) -> ModuleType:
        """The copy of `projections.fold`; while a mutant lives, it folds with the bent guard."""
        return self.modules["fold"]

    def mutants(self) -> Iterator[str]:
        """Brings one mutant after the other to life and yields its name: function, what stood there, what does now."""
        for module, functions in self.functions.items():
            for function in functions:
                target = getattr(self.modules[module], function.name)
                for before, after, change in _changes(function):
                    with _changed(function, target, change):
                        yield f"{module}.{function.name}: {before} → {after}"


@contextmanager
def _changed(function: ast.FunctionDef, target: FunctionType, change: Change) -> Iterator[None]:
    original = target.__code__
    undo = change()
    try:
        target.__code__ = _code(function)
        yield
    finally:
        undo()
        target.__code__ = original


def _code(function: ast.FunctionDef) -> CodeType:
    compiled = compile(ast.fix_missing_locations(ast.Module([function], [])), "<mutant>", "exec", flags=FUTURE)
    return next(const for const in compiled.co_consts if isinstance(const, CodeType) and const.co_name == function.name)


FUTURE: Final = __import__("__future__").annotations.compiler_flag


def _changes(function: ast.FunctionDef) -> Iterator[tuple[str, str, Change]]:
    skipped = _skipped(function)
    for parent in ast.walk(function):
        for field, value in ast.iter_fields(parent):
            for place, node in enumerate(value) if isinstance(value, list) else [(None, value)]:
                if isinstance(node, ast.AST) and id(node) not in skipped:
                    for new in _variants(node):
                        yield _short(node), _short(new), _swap(parent, field, place, node, new)


def _swap(parent: ast.AST, field: str, place: int | None, old: ast.AST, new: ast.AST) -> Change:
    def put(node: ast.AST) -> None:
        if place is None:
            setattr(parent, field, node)
        else:
            getattr(parent, field)[place] = node

    def change() -> Callable[[], None]:
        put(new)
        return lambda: put(old)

    return change


def _variants(node: ast.AST) -> Iterator[ast.AST]:
    match node:
        case ast.Compare(ops=[op]):
            flipped = copy.copy(node)
            flipped.ops = [FLIPPED[type(op)]()]
            yield flipped
        case ast.If() | ast.IfExp():
            for value in (True, False):
                bent = copy.copy(node)
                bent.test = ast.Constant(value)
                yield bent
        case ast.BoolOp(values=values):
            for left_out in range(len(values)):
                kept = [value for place, value in enumerate(values) if place != left_out]
                yield kept[0] if len(kept) == 1 else ast.BoolOp(node.op, kept)
        case ast.Call(func=ast.Name(id="max" | "min"), args=[first, second]):
            yield first
            yield second
        case ast.Constant(value=bool(value)):
            yield ast.Constant(not value)
        case ast.Constant(value=int(value)):
            yield ast.Constant(value + 1)


def _skipped(function: ast.FunctionDef) -> set[int]:
    """Nodes that are left alone: storage and caches, annotations, defaults, and what a loop's end hangs on."""
    alone: set[int] = set()

    def leave(node: ast.AST | None) -> None:
        if node is not None:
            alone.update(id(part) for part in ast.walk(node))

    leave(function.args)
    leave(function.returns)
    for node in ast.walk(function):
        match node:
            case ast.While(test=test):
                leave(test)
            case ast.Assert():
                leave(node)
            case ast.AnnAssign():
                leave(node.annotation)
            case ast.Assign() | ast.AugAssign() | ast.Expr() | ast.Return() if _is_beside(node):
                leave(node)
            case ast.If(test=test) if _is_beside(test):
                alone.add(id(node))
                leave(test)
    return alone


def _is_beside(node: ast.AST) -> bool:
    text = ast.unparse(node)
    return any(word in text for word in BESIDE)


def _short(node: Any) -> str:
    return f"if {ast.unparse(node.test)}" if isinstance(node, ast.If) else ast.unparse(node)
