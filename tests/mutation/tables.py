"""Every mutation, theme by theme."""

from tests.mutation import mutations_adapters
from tests.mutation.mutation import Mutation

TABLES = (mutations_adapters.MUTATIONS,)
"""One table a theme; a new module is one more entry."""

MUTATIONS: tuple[Mutation, ...] = tuple(mutation for table in TABLES for mutation in table)
