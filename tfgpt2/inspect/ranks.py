"""Colors of ranks and names of layers, shared by figures and pages."""

from __future__ import annotations

RANKS = (10, 100, 1000)  # upper limits of the colors, as in GLTR
COLORS = ("#8fc79a", "#f3d27a", "#ee9a83", "#bd97cc")
BUCKETS = ("1 to 10", "11 to 100", "101 to 1000", "above 1000")


def bucket(rank: int) -> int:
    """Index of the color of a rank.

    Example:
        >>> bucket(1), bucket(10), bucket(11), bucket(5000)
        (0, 0, 1, 3)
    """
    return sum(rank > limit for limit in RANKS)


def layer_names(layers: int) -> list[str]:
    """Names of the `L + 1` rows of a logit lens.

    Example:
        >>> layer_names(3)
        ['embeddings', 'block 0', 'model']
    """
    return ["embeddings", *(f"block {i}" for i in range(layers - 2)), "model"][-layers:]
