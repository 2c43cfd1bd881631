"""What people read. In: benchmark.json, or the results of a sweep. Out: a page and Markdown, with plots."""
