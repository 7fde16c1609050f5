"""Influence maps point at the half of a film that shows the queries' motion (benchmarks/map_places.py measures harder cases, too)."""

import numpy as np

from benchmarks.map_places import AIM, half_films, network_of, query_inputs, right_shares, spread_draws
from motive_pipeline.attribution.influence_map import InfluenceMaps


def test_most_positive_influence_lies_in_the_half_that_moves_as_the_queries_do():
    """With the plain loss of the clip: no mask tells the map where anything moves."""
    model = network_of("trained", 1)
    maps = InfluenceMaps(model, draws=spread_draws(8))
    shares = right_shares(model, maps, query_inputs(model, 4), half_films("background", 10), mask="query")
    assert sum(share >= AIM for share in shares) >= 9, np.round(shares, 2)
