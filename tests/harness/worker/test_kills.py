"""`kill -9` of anything at any moment loses at most the case in flight."""

import random
import signal
import subprocess
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from harness.cases import Case
from harness.codec import to_json
from harness.record import Status
from harness.store.folder import RECORDS, RunFolder
from harness.store.records import quarantine_of
from kernels.op import problem
from tests.harness.fake_runs import fake_job
from tests.harness.worker.lives import Life, is_alive

NUM_KILLS = 50
"""They fit into 20 s on two cores, since `warm.py` forks processes that have imported torch: a
life of a child begins within 0.1 s, and a case of the fake chip takes about 10 ms."""
LATEST_S = 0.6
"""The latest moment after a start or the kill before: starting, and up to some 50 cases."""
CASES = tuple(
    Case(problem=made, impl=impl, roles=("training",))
    for step in range(1, 26)
    for made in (
        problem("copy", "bf16", N=1024 * step),
        problem("rms_norm", "bf16", T=16 * step, H=64),
        problem("swiglu", "bf16", T=16 * step, F=64),
    )
    for impl in ("torch", "compile", "triton")
)
JOB = replace(fake_job(), cases=CASES, run=replace(fake_job().run, num_cases=len(CASES)))


def whole_lines(out: Path) -> list[bytes]:
    path = out / RECORDS
    return path.read_bytes().split(b"\n")[:-1] if path.exists() else []


@pytest.mark.slow
def test_kills_at_fifty_random_moments_lose_no_finished_case(
    warm: "subprocess.Popen[str]", tmp_path: Path
) -> None:
    moments = random.Random(20261124)
    job_file = tmp_path / "job.json"
    job_file.write_text(to_json(JOB), encoding="utf-8")
    victims: Counter[str] = Counter()
    for number in range(NUM_KILLS):
        out = tmp_path / f"run-{number}"
        num_child_kills = 0
        while len(whole_lines(out)) < len(CASES):
            kept = whole_lines(out)
            life = Life(warm, job_file, out)
            is_spared = victims.total() >= NUM_KILLS
            while not is_spared:
                time.sleep(moments.uniform(0, LATEST_S))
                victim = moments.choice(("child", "child", "supervisor", "both"))
                if not is_alive(life.supervisor):
                    break
                hit = life.kill(child=victim != "supervisor", supervisor=victim != "child")
                victims[victim] += bool(hit)
                num_child_kills += bool(hit) and victim != "supervisor"
                is_spared = victim != "child" or victims.total() >= NUM_KILLS
                # What was finished at a moment is there, unchanged, at the next.
                now = whole_lines(out)
                assert now[: len(kept)] == kept
                kept = now
            exit_code = life.end()
            # Right, failed cases, three children killed before their first case, or killed itself.
            assert exit_code in (0, 4, 2, -signal.SIGKILL)
            life.assert_nothing_is_left()
            assert whole_lines(out)[: len(kept)] == kept
        records = RunFolder(out).records()
        assert sorted(record.case.id for record in records) == sorted(case.id for case in CASES)
        assert not quarantine_of(out / RECORDS).exists()
        statuses = Counter(record.status for record in records)
        assert statuses[Status.CRASHED] <= num_child_kills
        assert set(statuses) <= {Status.OK, Status.CRASHED, Status.SKIPPED}
        if victims.total() >= NUM_KILLS:
            break
    assert victims.total() == NUM_KILLS
    assert set(victims) == {"child", "supervisor", "both"}
