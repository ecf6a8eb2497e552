"""Numbers of numpy and TensorFlow as JSON takes them: finite, or null."""

import math
from collections.abc import Mapping
from typing import Any


def plain(value: Any) -> Any:
    """The same value in JSON's types.

    A float that is not finite becomes None: JSON knows neither NaN nor infinity. Anything with
    `tolist` (arrays and scalars of numpy) becomes what that gives; what is left, its text.
    """
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(one) for one in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    return str(value)
