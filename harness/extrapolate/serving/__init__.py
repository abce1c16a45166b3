"""Inference on a cluster: what replicas of a model serve within given times.

spec.py         what is asked
priors.py       constants with their sources
plans.py        the replicas that are legal
memory.py       weights and cache of a chip
work.py         the ops of a pass: sequences that decode, prompts that are read
exchange.py     what the chips of a replica send
times.py        seconds by cause, over all numbers of tokens at once
schedule.py     queues, chunks, the ratio of prefill to decode: formulas alone
pools.py        what a replica does with each number of sequences
search.py       the best of them, and the Pareto front
power.py        watts and price of a chip
uncertainty.py  the constants drawn many times
serve.py        all of it: a ServingProjection
published.py    one published configuration: the rate to compare with
"""
