"""The tests. Every process that they start inherits one thread for torch: the machine's cores are for the workers."""

import os

os.environ["OMP_NUM_THREADS"] = "1"
