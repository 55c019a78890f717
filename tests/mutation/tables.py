"""Every mutation, theme by theme, and the edits that do no harm."""

from tests.mutation import (
    harmless_layouts,
    harmless_quantised,
    harmless_texts,
    mutations_adapters,
    mutations_budget,
    mutations_config,
    mutations_data,
    mutations_files,
    mutations_processor,
    mutations_templates,
    mutations_weights,
)
from tests.mutation.mutation import Harmless, Mutation

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

HARMLESS: tuple[Harmless, ...] = (
    *harmless_layouts.HARMLESS,
    *harmless_quantised.HARMLESS,
    *harmless_texts.HARMLESS,
)
"""Edits that must trip nothing."""
