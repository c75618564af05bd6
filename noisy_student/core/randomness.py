"""The one source of randomness: every draw is a function of seed, purpose and step."""

import zlib
from typing import Annotated

import numpy as np
from pydantic import Field

Seed = Annotated[int, Field(strict=True, ge=0, lt=2**32)]


def generator(seed: int, purpose: str, step: int = 0) -> np.random.Generator:
    """The generator of one draw. It depends on seed, purpose and step alone, so no state is carried from draw to
    draw."""
    return np.random.default_rng(np.random.SeedSequence([seed, zlib.crc32(purpose.encode()), step]))
