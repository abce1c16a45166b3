"""Arms: what the gate measures against each other, opened, measured in turns and given to the rule.

source.py     what `base=` and `head=` name: a revision, a wheel, a checkout, a stored run
git.py        the repository that the running code belongs to
benchmark_file.py   a file of pytest-benchmark, kept as a stored run
wheel.py      a wheel, unpacked beside what is installed
tree.py       the code that an arm's processes import, and the proof that they do
plan.py       the cases of an arm, made by its own command line
hold.py       the device, held from the first round to the last
process.py    one fresh process that measures the whole suite
side.py       such a process, or a stored run, as a side that takes turns
turns.py      both sides in ABBA order, with what failed tried once more

changes.py    what else differs between the arms: driver, versions, variables
job.py        what a gate was asked for, kept so that it can be gone on with
judging.py    screen, fresh rounds for what was flagged, and the result
"""
