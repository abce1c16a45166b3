"""What the ops that are whole transformer layers share.

`operations` is the set of functions a layer is written in, with eager torch, this package's custom
ops, the fp64 references and a counter behind it; `parts` are the halves of a layer; `block` makes
inputs, cost, tolerance and reference out of one definition, and `runs` the implementations.
"""
