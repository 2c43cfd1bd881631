"""The processes that train one run together. `launch` reads what torchrun says; `world` moves tensors between them.

Without torchrun the world is one process, and each of its methods hands back what it was given.
"""
