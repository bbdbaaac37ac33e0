"""Hypothesis for every test: no deadlines (machines are noisy); in CI always the same examples."""

from __future__ import annotations

import os

from hypothesis import settings

settings.register_profile("lunmesh", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("lunmesh")
