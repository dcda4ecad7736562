"""The checker of every annotation of the package while tests run (pyproject.toml, --jaxtyping-packages)."""

from typing import Any, Self

from beartype import BeartypeConf, FrozenDict, beartype

# An int is a fine float (PEP 484). jaxtyping's hook hands over methods one by one, where Self has no meaning.
check = beartype(conf=BeartypeConf(is_pep484_tower=True, hint_overrides=FrozenDict({Self: Any})))
