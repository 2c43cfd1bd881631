"""Runs many recipes.

In: one recipe file and what varies. Out: finished runs. Runs that can share batches run side by side.
"""
