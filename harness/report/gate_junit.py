"""A gate's result as JUnit XML: a test case for each case of the suite.

CI systems group by `classname`, whose last part is the op, and follow a test by its `name`, which
is the case id. Accepted and harmless states pass; what could not be judged is skipped or an error.

Source: elements and attributes are those of https://github.com/jenkinsci/xunit-plugin
(junit-10.xsd); a test case's properties, which it does not have and other tools read or pass over,
are those of https://github.com/testmoapp/junitxml.
"""

import re
from datetime import datetime
from xml.etree import ElementTree

from harness.gate_result import GateCase, GateResult, State
from harness.report.gate_rows import (
    change_text,
    clock_text,
    exemption_text,
    facts,
    notes,
    seconds_text,
    times_text,
    tolerance_text,
)

NOT_XML = re.compile(r"[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML 1.0 cannot hold, not even escaped (section 2.2)."""
ELEMENT: dict[State, str] = {
    State.REGRESSED: "failure",
    State.INVALID: "error",
    State.INCONCLUSIVE: "skipped",
    State.NOISY: "skipped",
    State.MISSING: "skipped",
}
"""A state that is not here is a test that passes."""


def render(result: GateResult) -> str:
    """The file's text; UTF-8 when written."""
    suites = ElementTree.Element("testsuites", {"name": "chipscale gate"})
    suite = ElementTree.SubElement(suites, "testsuite", _suite_attributes(result))
    told = {name: value for name, value in facts(result) if name != "measured"}
    told |= {f"{role} in MLflow": link for role, link in result.ui_links}
    told |= {f"note {place}": note for place, note in enumerate(notes(result), 1)}
    _properties(suite, told)
    for case in result.cases:
        _case(suite, result, case)
    for name in ("tests", "failures", "errors", "time"):
        value = suite.get(name)
        if value is not None:
            suites.set(name, value)
    ElementTree.indent(suites)
    text = ElementTree.tostring(suites, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{text}\n'


def _suite_attributes(result: GateResult) -> dict[str, str]:
    elements = [_element(case) for case in result.cases]
    found = {
        "name": plain(f"{result.suite} on {result.chip}"),
        "tests": str(len(result.cases)),
        "failures": str(elements.count("failure")),
        "errors": str(elements.count("error")),
        "skipped": str(elements.count("skipped")),
    }
    try:
        began, ended = (
            datetime.fromisoformat(text) for text in (result.started_at, result.ended_at)
        )
        found["time"] = f"{(ended - began).total_seconds():.3f}"
        # The schema's time has no zone.
        found["timestamp"] = began.replace(tzinfo=None).isoformat(timespec="seconds")
    except (TypeError, ValueError):
        found["time"] = "0"
    return found


def _element(case: GateCase) -> str:
    if case.state is State.REGRESSED and not case.fails:
        return ""
    return ELEMENT.get(case.state, "")


def plain(text: str) -> str:
    """The text without what XML cannot hold."""
    return NOT_XML.sub("?", text)


def _properties(parent: ElementTree.Element, values: dict[str, str]) -> None:
    found = {name: value for name, value in values.items() if value}
    if not found:
        return
    holder = ElementTree.SubElement(parent, "properties")
    for name, value in found.items():
        ElementTree.SubElement(holder, "property", {"name": plain(name), "value": plain(value)})


def _case(suite: ElementTree.Element, result: GateResult, case: GateCase) -> None:
    found = ElementTree.SubElement(
        suite,
        "testcase",
        {
            "classname": plain(f"chipscale.{result.suite}.{case.op}"),
            "name": plain(case.case_id),
            "time": f"{case.head_s or 0.0:.9f}",
        },
    )
    change = case.change
    values = {
        "state": case.state.value,
        "base": seconds_text(case.base_s),
        "head": seconds_text(case.head_s),
        "change": "" if change is None else f"{change.value:+.4f}",
        "interval": "" if change is None else f"{change.low:+.4f} to {change.high:+.4f}",
        "tolerance": tolerance_text(case),
        "chip": result.chip,
        "base clock": clock_text(case.base_clock_hz),
        "head clock": clock_text(case.head_clock_hz),
        "accepted": exemption_text(case),
    }
    _properties(found, values)
    element = _element(case)
    if not element:
        return
    message = " ".join(text for text in (change_text(case), case.reason) if text)
    told = ElementTree.SubElement(found, element, {"message": plain(message)})
    if element != "skipped":
        told.set("type", case.state.value)
    lines = (times_text(case), f"Tolerance {tolerance_text(case)}", case.reproduce)
    links = tuple(f"{role} in MLflow: {link}" for role, link in result.ui_links)
    told.text = plain("\n".join(text for text in (*lines, *links) if text))
