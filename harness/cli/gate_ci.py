"""What the variables of a CI system say of the job that runs the gate."""

import os
import re
from collections.abc import Mapping

NUMBERS = ("CI_MERGE_REQUEST_IID", "CHANGE_ID", "BUILDKITE_PULL_REQUEST")
"""Of GitLab, Jenkins and Buildkite, which says `false` where there is none."""


def pull_request(environment: Mapping[str, str] = os.environ) -> str:
    """The number of the pull or merge request that the job is for; empty where it is for none."""
    of_github = re.fullmatch(r"refs/pull/(\d+)/\w+", environment.get("GITHUB_REF", ""))
    if of_github:
        return of_github[1]
    found = (environment.get(name, "") for name in NUMBERS)
    return next((number for number in found if number.isdecimal()), "")
