"""Pull a student towards the teacher's hidden states, queries, keys and values, besides its answers."""

from logitstore.features.attention import Attention
from logitstore.features.balance import balanced_weight
from logitstore.features.feature import FeatureObjective, Pair, Shapes, Sides
from logitstore.features.layer_map import layer_pairs
from logitstore.features.match import Match
from logitstore.features.mutual_information import MutualInformation, interpolated_bound
from logitstore.features.norm_direction import NormDirection
from logitstore.features.relations import Relations
from logitstore.features.similarity import Similarity
from logitstore.features.square_head import SquareHead

__all__ = [
    "Attention",
    "FeatureObjective",
    "Match",
    "MutualInformation",
    "NormDirection",
    "Pair",
    "Relations",
    "Shapes",
    "Sides",
    "Similarity",
    "SquareHead",
    "balanced_weight",
    "interpolated_bound",
    "layer_pairs",
]
