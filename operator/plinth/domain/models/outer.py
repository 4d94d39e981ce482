"""What a model has outside its layers and its vocabulary: last norm, positions, pooler, classifier; and its task."""

from __future__ import annotations

from plinth.api.v1alpha1 import Task
from plinth.domain.models.families import Family
from plinth.domain.models.keys import Keys

CLASSIFIER = "ForSequenceClassification"
BARE = "Model"
"""How the class of a model without a head for the vocabulary ends."""


def guess_task(keys: Keys, family: Family) -> Task:
    """By the class that the checkpoint was saved from: a classifier scores, a model without a head embeds."""
    saved_as = keys.words("architectures")
    if any(each.endswith(CLASSIFIER) for each in saved_as):
        return Task.RERANK
    if family.encoder or any(each.endswith(BARE) for each in saved_as):
        return Task.EMBED
    return Task.GENERATE


def count_outer_vectors(keys: Keys, family: Family, task: Task) -> int:
    """Parameters outside layers and vocabulary."""
    hidden = keys.number("hidden_size")
    norm = 2 * hidden if family.norm_bias else hidden
    total = norm if family.last_norm else 0
    if family.learned_positions:
        total += keys.number("max_position_embeddings") * hidden
    if family.head_bias:
        total += keys.number("vocab_size")
    if task is Task.RERANK:
        labels = len(keys.section("id2label")) or keys.number("num_labels", 1)
        total += labels * (hidden + 1 if family.encoder else hidden)
    if family.encoder and not family.last_norm:
        # Segments and the norm of the embeddings; the pooler, or the matrix before a classifier.
        total += keys.number("type_vocab_size") * hidden + norm
        total += hidden * hidden + hidden if family.learned_positions else 0
    return total
