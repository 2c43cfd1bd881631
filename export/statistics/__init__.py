"""Intervals and tests, on which gates and verdicts rest. In: counts, or logits and labels. Out: plain numbers."""
