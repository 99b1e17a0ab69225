"""Pull a student towards the teacher's hidden states, queries, keys and values, besides its answers."""

from __future__ import annotations

from logitstore.train.objectives.features.attention import Attention
from logitstore.train.objectives.features.feature import FeatureObjective, Pair, Shapes, Sides
from logitstore.train.objectives.features.layer_map import layer_pairs
from logitstore.train.objectives.features.learned.prototypes import Prototypes
from logitstore.train.objectives.features.learned.sub_classes import SubClasses
from logitstore.train.objectives.features.match import Match, SquareHead
from logitstore.train.objectives.features.mutual_information import MutualInformation, interpolated_bound
from logitstore.train.objectives.features.norm_direction import NormDirection
from logitstore.train.objectives.features.pooled.vectors import (
    EmbeddingCosine,
    EmbeddingMse,
    RelationalDistance,
    SimilarityKl,
    SimilarityMse,
)
from logitstore.train.objectives.features.relations import Relations
from logitstore.train.objectives.features.similarity import Similarity
from logitstore.train.objectives.features.token_graph import TokenGraph

__all__ = [
    "Attention",
    "EmbeddingCosine",
    "EmbeddingMse",
    "FeatureObjective",
    "Match",
    "MutualInformation",
    "NormDirection",
    "Pair",
    "Prototypes",
    "RelationalDistance",
    "Relations",
    "Shapes",
    "Sides",
    "Similarity",
    "SimilarityKl",
    "SimilarityMse",
    "SquareHead",
    "SubClasses",
    "TokenGraph",
    "interpolated_bound",
    "layer_pairs",
]
