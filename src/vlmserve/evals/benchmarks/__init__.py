"""Published benchmarks for the task files in ``evals/benchmarks``: a module each.

Prompts are worded and answers judged as the harness that the task file names does it. Where that
draws lots or asks a judge, an answer that no rule understands is wrong.
"""
