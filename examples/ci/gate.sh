#!/usr/bin/env bash
# The gate for any CI system: what was checked out against where it left its target branch.
#
#   GATE_TARGET   the branch it goes into; GitHub's, GitLab's and Jenkins' own variables, else main
#   GATE          overrides of `chipscale gate`, as in "suite=kernels device=cuda"
#   GATE_OUT      folder for junit.xml, gate.html, gate.md ...; gate by default
#
# Ends with the gate's exit code: 0 no regression, 3 a regression, 4 a case that could not be
# judged, 5 nothing measured, 6 the device is busy, 2 a wrong setting. See docs/ci.md.
set -euo pipefail

target="${GATE_TARGET:-${GITHUB_BASE_REF:-${CI_MERGE_REQUEST_TARGET_BRANCH_NAME:-${CHANGE_TARGET:-main}}}}"
out="${GATE_OUT:-gate}"
results="${GATE_RESULTS:-results}"

# CI systems fetch few commits; the one where the branches parted has to be among them.
if [ "$(git rev-parse --is-shallow-repository)" = true ]; then
  git fetch --quiet --unshallow origin
fi
git fetch --quiet origin "+refs/heads/$target:refs/remotes/origin/$target"
# Where this branch left its target: what the target got since is not this branch's doing.
base="$(git merge-base "origin/$target" HEAD)"

rm -rf "$out"
mkdir -p "$out" "$results"
started="$(mktemp)"
trap 'rm -f "$started"' EXIT

code=0
read -ra words <<< "${GATE:-}"   # into words as they are: brackets are no pattern of files here
chipscale gate "base=$base" "results_dir=$results" "${words[@]}" || code=$?

# A folder of a fixed name, since artifacts are named before the gate has its id; a workspace that
# is used again holds older gates.
newest="$(find "$results" -path '*/gates/*/gate.json' -newer "$started" | sort | tail -n 1)"
if [ -n "$newest" ]; then
  for name in gate.json gate.html gate.md gate_comment.md junit.xml; do
    cp "$(dirname "$newest")/$name" "$out/"
  done
fi
exit "$code"
