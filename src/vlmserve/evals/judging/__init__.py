"""Answers that another model judges: in pairs, or one by one against a rubric."""
