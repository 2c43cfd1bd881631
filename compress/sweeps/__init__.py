"""Many recipes. In: one recipe file and what varies. Out: finished runs, side by side where they can share batches."""
