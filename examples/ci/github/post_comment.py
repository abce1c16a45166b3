"""Post the comment of a gate on its pull request, or renew the one that is there.

python3 post_comment.py FILE

FILE is gate_comment.md; its first line is the mark by which the comment is found again. Needs
nothing but Python. Reads GITHUB_API_URL, GITHUB_REPOSITORY, GITHUB_TOKEN, HEAD (owner:branch) and
HEAD_SHA; without an open pull request of that commit it says so and ends well.
"""

import json
import os
import sys
import urllib.parse
import urllib.request
from pathlib import Path

MARK = "<!-- chipscale-gate: "
MAX_CHARACTERS = 65_536
"""GitHub refuses a longer comment."""
PAGE = 100
TIMEOUT_S = 30


def call(method: str, path: str, body: object = None) -> object:
    """What GitHub answers; `urllib.error.HTTPError` where it refuses."""
    request = urllib.request.Request(
        f"{os.environ['GITHUB_API_URL']}/repos/{os.environ['GITHUB_REPOSITORY']}{path}",
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={
            "Accept": "application/vnd.github+json",
            "Authorization": f"Bearer {os.environ['GITHUB_TOKEN']}",
            "Content-Type": "application/json",
        },
    )
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
        return json.load(answer)


def pull_request() -> int | None:
    """The open pull request whose newest commit was gated; None where there is none any more."""
    head = urllib.parse.quote(os.environ["HEAD"])
    for found in call("GET", f"/pulls?state=open&per_page={PAGE}&head={head}"):
        if found["head"]["sha"] == os.environ["HEAD_SHA"]:
            return found["number"]
    return None


def comment_with(mark: str, number: int) -> int | None:
    """The comment that an earlier gate of that suite and chip left."""
    page = 1
    while True:
        found = call("GET", f"/issues/{number}/comments?per_page={PAGE}&page={page}")
        for comment in found:
            is_ours = comment["user"]["type"] == "Bot"
            if is_ours and comment["body"].splitlines()[:1] == [mark]:
                return comment["id"]
        if len(found) < PAGE:
            return None
        page += 1


def main(path: Path) -> int:
    """Post or renew; returns the exit code."""
    text = path.read_text(encoding="utf-8", errors="replace")[:MAX_CHARACTERS]
    mark = text.splitlines()[0] if text else ""
    if not mark.startswith(MARK):
        print(f"{path}: it does not begin with `{MARK}...`, so it is no comment of a gate.")
        return 1
    number = pull_request()
    if number is None:
        print("No open pull request has that commit as its newest, so nothing is posted.")
        return 0
    held = comment_with(mark, number)
    if held is None:
        call("POST", f"/issues/{number}/comments", {"body": text})
    else:
        call("PATCH", f"/issues/comments/{held}", {"body": text})
    return 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("Usage: post_comment.py gate_comment.md (of one gate)")
    sys.exit(main(Path(sys.argv[1])))
