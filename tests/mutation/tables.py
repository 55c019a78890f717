"""Every mutation, theme by theme."""

from tests.mutation import (
    mutations_adapters,
    mutations_budget,
    mutations_config,
    mutations_data,
    mutations_files,
    mutations_processor,
    mutations_templates,
    mutations_weights,
)
from tests.mutation.mutation import Mutation

TABLES = (
    mutations_adapters.MUTATIONS,
    mutations_budget.MUTATIONS,
    mutations_config.MUTATIONS,
    mutations_data.MUTATIONS,
    mutations_files.MUTATIONS,
    mutations_processor.MUTATIONS,
    mutations_templates.MUTATIONS,
    mutations_weights.MUTATIONS,
)
"""One table a theme; a new module is one more entry."""

MUTATIONS: tuple[Mutation, ...] = tuple(mutation for table in TABLES for mutation in table)
