"""What a PromQL expression asks for, held against what there is."""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import promql_parser

# The labels of every series of a metric; none: there is no such metric.
SeriesOf = Callable[[str], list[dict[str, str]]]


@dataclass(frozen=True)
class Matcher:
    label: str
    # "=", "!=", "=~" or "!~".
    operator: str
    value: str

    def takes(self, series: dict[str, str]) -> bool:
        value = series.get(self.label, "")
        found = (
            re.fullmatch(self.value, value) is not None
            if "~" in self.operator
            else self.value == value
        )
        return found != self.operator.startswith("!")


@dataclass(frozen=True)
class Selector:
    name: str
    matchers: tuple[Matcher, ...]


def selectors(expression: str) -> list[Selector]:
    """Every metric that the expression reads. ValueError where it is no PromQL."""
    return list(_selectors(promql_parser.parse(expression)))


def faults(expression: str, series_of: SeriesOf) -> list[str]:
    """Names, labels and values in the expression that no series has."""
    root = promql_parser.parse(expression)
    found = []
    for selector in _selectors(root):
        series = series_of(selector.name)
        if not series:
            found.append(f"there is no metric {selector.name}")
            continue
        for matcher in selector.matchers:
            if not any(matcher.label in each for each in series):
                found.append(f"{selector.name} has no label {matcher.label}")
            elif not any(matcher.takes(each) for each in series):
                found.append(f"no {selector.name} has {matcher}")
    for labels, inner in _groupings(root):
        known = {label for name in inner for each in series_of(name) for label in each}
        found += [f"none of {sorted(inner)} has a label {label}" for label in labels - known]
    return found


_OPERATORS = {
    "MatchOp.Equal": "=",
    "MatchOp.NotEqual": "!=",
    "MatchOp.Re": "=~",
    "MatchOp.NotRe": "!~",
}


def _selectors(root: promql_parser.Expr) -> Iterator[Selector]:
    for node in _nodes(root):
        if isinstance(node, promql_parser.VectorSelector):
            yield Selector(
                node.name,
                tuple(
                    Matcher(matcher.name, _OPERATORS[str(matcher.op)], matcher.value)
                    for matcher in node.matchers.matchers
                ),
            )


def _groupings(root: promql_parser.Expr) -> Iterator[tuple[set[str], set[str]]]:
    """Labels that are grouped by or joined on, and the metrics that must have them."""
    for node in _nodes(root):
        modifier = getattr(node, "modifier", None)
        if modifier is None:
            continue
        if isinstance(node, promql_parser.AggregateExpr):
            labels = set(modifier.labels)
        else:
            joined = modifier.matching.labels if modifier.matching else []
            labels = {*joined, *(modifier.group_labels or [])}
        yield labels, {selector.name for selector in _selectors(node)}


def _nodes(node: promql_parser.Expr) -> Iterator[promql_parser.Expr]:
    yield node
    for child in _children(node):
        yield from _nodes(child)


def _children(node: promql_parser.Expr) -> Iterable[promql_parser.Expr]:
    match node:
        case promql_parser.BinaryExpr():
            return (node.lhs, node.rhs)
        case promql_parser.AggregateExpr():
            return (node.expr, node.param) if node.param is not None else (node.expr,)
        case promql_parser.Call():
            return tuple(node.args)
        case promql_parser.MatrixSelector():
            return (node.vector_selector,)
        case promql_parser.ParenExpr() | promql_parser.SubqueryExpr() | promql_parser.UnaryExpr():
            return (node.expr,)
    return ()
