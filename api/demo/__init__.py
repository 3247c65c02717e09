"""The demonstration: a project is really initialised, in a temporary folder, and reported step by step.

`git`, `template`, `records` and `manifests` do the work and know nothing of Headway; `work` is the worker's code, as a
user would write it; `proof` shows afterwards that what was watched is what the log holds.
"""
