"""The processes that train one run together, under torchrun.

In: what torchrun says in the environment. Out: a World through which the processes exchange tensors. `launch` reads the
environment, `world` moves tensors, `agreement` makes all processes act at the same step. Without torchrun the world is
one process, and each of its methods returns its argument.
"""
