"""The decisions: shapes, placement, scaling, rollout, health. Pure; time is an argument."""
