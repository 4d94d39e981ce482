"""Where replicas go, for all models and pools at once: a pure function of who holds what and of what is asked for.

    hosts, holds -> Room (kept between passes, only a cache) -> plan_places(room, demands) -> PlacementPlan

What runs stays where it is. New replicas are placed whole, largest first, each where it fits best. Where not all fit,
each takes its turn by right: on what is free, on what is leaving, by a move of others, by displacing what matters
less. What then has no place is told who holds it.
"""
