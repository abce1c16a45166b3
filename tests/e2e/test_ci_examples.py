"""The examples for CI, run as a runner runs them: steps of the YAML, in a clone, on the fake chip.

The step that installs is left out, since the tests' own environment stands in for it, and steps
that are actions of GitHub itself; what those do is not in this repository.
"""

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlparse
from xml.etree import ElementTree

import pytest
import yaml

ROOT = Path(__file__).parents[2]
GITHUB = ROOT / "examples" / "ci" / "github"
SMALL = "suite=quick device=fake gate.rounds=1 tracking.enabled=false --case swiglu.*forward*"
"""A few cases and one pair of processes: what the steps do with a result is tested here."""


def git(*words: str, at: Path) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    command = ["git", *identity, "-c", "init.defaultBranch=main", *words]
    done = subprocess.run(command, cwd=at, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def run_steps(file: Path, at: Path, environment: dict[str, str]) -> tuple[int, str]:
    """Each `run:` of the workflow's job but the installation, as GitHub's runner calls bash."""
    workflow = yaml.safe_load(file.read_text(encoding="utf-8"))
    (job,) = workflow["jobs"].values()
    output = ""
    for step in job["steps"]:
        if "run" not in step or step["name"] == "Install":
            continue
        values = {
            **workflow.get("env", {}),
            **{name: value for name, value in step.get("env", {}).items() if "${{" not in value},
            **environment,
        }
        done = subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]],
            cwd=at,
            env={**os.environ, **values},
            capture_output=True,
            text=True,
            timeout=250,
        )
        output += done.stdout + done.stderr
        if done.returncode:
            return done.returncode, output
    return 0, output


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What actions/checkout leaves of a pull request that makes every Triton kernel slower."""
    top = tmp_path_factory.mktemp("ci")
    origin = top / "origin"
    ignore = shutil.ignore_patterns("__pycache__")
    for name in ("harness", "kernels", "configs", "examples"):
        shutil.copytree(ROOT / name, origin / name, ignore=ignore)
    (origin / ".gitignore").write_text("__pycache__\n/results\n/gate\n", encoding="utf-8")
    git("init", "--quiet", at=origin)
    git("add", "--all", at=origin)
    git("commit", "--quiet", "--message=main", at=origin)
    git("checkout", "--quiet", "-b", "slower", at=origin)
    bench = origin / "harness" / "measure" / "fake_workbench.py"
    text = bench.read_text(encoding="utf-8")
    assert text.count("self._device.advance(ideal_s / share)") == 1
    slower = text.replace("advance(ideal_s / share)", "advance(1.2 * ideal_s / share)")
    bench.write_text(slower, encoding="utf-8")
    git("commit", "--quiet", "--all", "--message=slower", at=origin)
    git("checkout", "--quiet", "main", at=origin)
    clone = top / "clone"
    git("clone", "--quiet", origin.as_uri(), str(clone), at=top)
    git("checkout", "--quiet", "--detach", "origin/main", at=clone)
    git("merge", "--quiet", "--no-ff", "--message=merge", "origin/slower", at=clone)
    return clone


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The variables of a runner, and `chipscale` as the installation step leaves it."""
    folder = tmp_path_factory.mktemp("runner")
    program = folder / "chipscale"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m harness "$@"\n', encoding="utf-8")
    program.chmod(0o755)
    return {
        "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": "",
        "GITHUB_ACTIONS": "true",
        "GITHUB_BASE_REF": "main",
        "GITHUB_REF": "refs/pull/17/merge",
        "GITHUB_STEP_SUMMARY": str(folder / "summary.md"),
        "GATE": SMALL,
    }


@pytest.fixture(scope="module")
def gated(checkout: Path, runner: dict[str, str]) -> tuple[int, str]:
    return run_steps(GITHUB / "gate.yml", checkout, runner)


def test_a_slower_pull_request_ends_the_job_with_3(gated: tuple[int, str]) -> None:
    code, output = gated
    assert code == 3, output


def test_the_runner_gets_annotations_and_a_summary(
    gated: tuple[int, str], runner: dict[str, str]
) -> None:
    _, output = gated
    errors = [line for line in output.splitlines() if line.startswith("::error title=REGRESSED")]
    assert 1 <= len(errors) <= 9
    summary = Path(runner["GITHUB_STEP_SUMMARY"]).read_text(encoding="utf-8")
    assert summary.lstrip().startswith("## ")
    assert "REGRESSED" in summary


def test_files_for_ci_lie_where_the_workflow_uploads_them(
    gated: tuple[int, str], checkout: Path
) -> None:
    names = {path.name for path in (checkout / "gate").iterdir()}
    assert names == {"gate.json", "gate.html", "gate.md", "gate_comment.md", "junit.xml"}, gated[1]
    suite = ElementTree.parse(checkout / "gate" / "junit.xml").getroot()
    assert int(suite.get("failures", "0")) >= 1
    result = json.loads((checkout / "gate" / "gate.json").read_text(encoding="utf-8"))
    assert result["base"]["commit"] == git("rev-parse", "origin/main", at=checkout)


def test_a_wrong_setting_ends_with_2_and_leaves_no_older_files(
    gated: tuple[int, str], checkout: Path, runner: dict[str, str]
) -> None:
    assert gated[0] == 3
    code, output = run_steps(GITHUB / "gate.yml", checkout, {**runner, "GATE": "suite=nothing"})
    assert code == 2, output
    assert list((checkout / "gate").iterdir()) == []


class GitHub(BaseHTTPRequestHandler):
    """The calls of GitHub's API that the comment needs, over what the server remembers."""

    def do_GET(self) -> None:
        path = urlparse(self.path)
        if path.path == "/repos/o/r/pulls":
            is_known = "head=fork%3Aslower" in path.query
            self._answer([{"number": 17, "head": {"sha": "abc"}}] if is_known else [])
        else:
            assert path.path == "/repos/o/r/issues/17/comments"
            self._answer(self.server.comments)  # type: ignore[attr-defined]

    def do_POST(self) -> None:
        comments = self.server.comments  # type: ignore[attr-defined]
        made = {"id": len(comments) + 1, "user": {"type": "Bot"}, **self._body()}
        comments.append(made)
        self._answer(made)

    def do_PATCH(self) -> None:
        comments = self.server.comments  # type: ignore[attr-defined]
        held = comments[int(self.path.rpartition("/")[2]) - 1]
        held.update(self._body())
        self._answer(held)

    def _body(self) -> dict[str, str]:
        assert self.headers["Authorization"] == "Bearer secret"
        body: dict[str, str] = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        return body

    def _answer(self, value: object) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(value).encode())

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def github() -> Iterator[HTTPServer]:
    with HTTPServer(("127.0.0.1", 0), GitHub) as server:
        server.comments = [  # type: ignore[attr-defined]
            {"id": 1, "user": {"type": "User"}, "body": "<!-- chipscale-gate: quick-h200 -->\nme"}
        ]
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def post(server: HTTPServer, at: Path, text: str, **changes: str) -> tuple[int, str]:
    (at / "gate").mkdir(exist_ok=True)
    (at / "gate" / "gate_comment.md").write_text(text, encoding="utf-8")
    if not (at / "examples").exists():
        (at / "examples").symlink_to(ROOT / "examples")
    environment = {
        "GITHUB_API_URL": f"http://127.0.0.1:{server.server_port}",
        "GITHUB_REPOSITORY": "o/r",
        "GITHUB_TOKEN": "secret",
        "HEAD": "fork:slower",
        "HEAD_SHA": "abc",
    }
    return run_steps(GITHUB / "gate-comment.yml", at, environment | changes)


def test_two_gates_of_one_pull_request_leave_one_comment(
    github: HTTPServer, tmp_path: Path
) -> None:
    mark = "<!-- chipscale-gate: quick-h200 -->"
    for words in ("first", "second"):
        code, output = post(github, tmp_path, f"{mark}\n{words}\n")
        assert code == 0, output
    bodies = [comment["body"] for comment in github.comments]  # type: ignore[attr-defined]
    assert bodies == [f"{mark}\nme", f"{mark}\nsecond\n"]


def test_a_commit_that_is_no_pull_requests_newest_is_not_commented_on(
    github: HTTPServer, tmp_path: Path
) -> None:
    code, output = post(github, tmp_path, "<!-- chipscale-gate: a -->\n", HEAD_SHA="def")
    assert (code, len(github.comments)) == (0, 1)  # type: ignore[attr-defined]
    assert "No open pull request" in output


def test_a_text_of_another_kind_is_not_posted(github: HTTPServer, tmp_path: Path) -> None:
    code, output = post(github, tmp_path, "Buy this.\n")
    assert (code, len(github.comments)) == (1, 1)  # type: ignore[attr-defined]
    assert "no comment of a gate" in output


def test_the_nightly_job_asks_for_a_run_that_the_command_line_takes(
    checkout: Path, runner: dict[str, str]
) -> None:
    nightly = {**runner, "NIGHTLY": "suite=quick device=fake --cfg job"}
    code, output = run_steps(GITHUB / "nightly.yml", checkout, nightly)
    assert code == 0, output
    assert yaml.safe_load(output)["tags"] == {"purpose": "nightly"}


@pytest.mark.parametrize("name", ["gate.yml", "gate-comment.yml", "nightly.yml"])
def test_no_job_has_more_rights_than_its_steps_need(name: str) -> None:
    workflow = yaml.safe_load((GITHUB / name).read_text(encoding="utf-8"))
    writes = {right for right, level in workflow["permissions"].items() if level == "write"}
    assert writes == ({"pull-requests"} if name == "gate-comment.yml" else set())
    # `on` is read as a truth value by YAML 1.1.
    assert "pull_request_target" not in workflow[True]


def test_gitlab_runs_the_same_script_and_reports_junit() -> None:
    job = yaml.safe_load((ROOT / "examples/ci/gitlab-ci.yml").read_text(encoding="utf-8"))["gate"]
    assert job["script"] == ["bash examples/ci/gate.sh"]
    assert job["artifacts"]["reports"]["junit"] == "gate/junit.xml"
