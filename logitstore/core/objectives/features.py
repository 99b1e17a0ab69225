"""The objectives on hidden states, queries, keys and values, and on vectors of texts."""

from __future__ import annotations

from typing import Any

from logitstore.core.objectives.method import Method


def _feature(where: str, says: str, paper: str, taps: str = "hidden", **more: Any) -> Method:
    """Return an objective on features, at `module:class` below their folder."""
    target = f"logitstore.train.objectives.features.{where}"
    return Method(target=target, says=says, paper=paper, form="features", taps=taps, **more)


OF_FEATURES = {
    "match": _feature(
        "match:Match",
        "squared error, 1 - cosine, absolute error or Huber's loss of hidden states, the student's projected if widths differ",
        "FitNets, Romero et al. 2015; DistilBERT, Sanh et al. 2019; Minitron, Muralidharan et al. 2024; DMAE, Bai et al. 2023",
    ),
    "square_head": _feature(
        "match:SquareHead",
        "squared error of hidden states over the mean square of the teacher's",
        "SquareHead, Kurtic et al. 2023",
    ),
    "norm_direction": _feature(
        "norm_direction:NormDirection",
        "the final hidden state along the mean of those before the same token, as long as the teacher's",
        "KD++, Wang et al. 2023",
        taps="final",
        given=("means_VD",),
    ),
    "sub_classes": _feature(
        "learned.sub_classes:SubClasses",
        "KL to the teacher's classes, each divided along the main directions of its final states, by a head that learns",
        "LELP, Loo et al. 2024",
        taps="final",
        given=("subclasses",),
    ),
    "relations": _feature(
        "relations:Relations",
        "KL between the relations of queries, of keys and of values among the rows of a sample",
        "MiniLM v2, Wang et al. 2021",
        taps="query, key, value",
    ),
    "attention": _feature(
        "attention:Attention",
        "KL between attention distributions, and between the relations of values",
        "MiniLM, Wang et al. 2020",
        taps="query, key, value",
    ),
    "similarity": _feature(
        "similarity:Similarity", "squared error of the cosines among the rows of a sample", "MLKD-OOD, Wu et al. 2022"
    ),
    "prototypes": _feature(
        "learned.prototypes:Prototypes",
        "KL between the attentions of hidden states to prototypes, which learn to describe the teacher's",
        "after ProC-KD, Li et al. 2022",
    ),
    "token_graph": _feature(
        "token_graph:TokenGraph",
        "graphs of hidden states: KL among the nearest of the batch, contrast with the teacher, relations in a sample",
        "TRG, Zhang et al. 2023",
    ),
    "mutual_information": _feature(
        "mutual_information:MutualInformation",
        "minus a lower bound of the mutual information of hidden states, with a critic that learns",
        "Distiller, He et al. 2021",
        may_be_negative=True,
    ),
    "embedding_mse": _feature(
        "pooled.vectors:EmbeddingMse",
        "squared error of the vectors of texts, mean over channels",
        "Reimers and Gurevych 2020",
        taps="final",
    ),
    "embedding_cosine": _feature(
        "pooled.vectors:EmbeddingCosine",
        "1 - cosine of the vectors of texts",
        "Jasper and Stella, Zhang et al. 2024",
        taps="final",
    ),
    "similarity_kl": _feature(
        "pooled.vectors:SimilarityKl",
        "KL between softmaxes over the cosines with the other texts of a batch",
        "CompRess, Koohpayegani et al. 2020, without its memory",
        taps="final",
    ),
    "similarity_mse": _feature(
        "pooled.vectors:SimilarityMse",
        "squared error of the cosines with the texts of a batch",
        "Jasper and Stella, Zhang et al. 2024",
        taps="final",
    ),
    "relational_distance": _feature(
        "pooled.vectors:RelationalDistance",
        "Huber loss of the distances from the other texts of a batch, over their mean",
        "RKD, Park et al. 2019",
        taps="final",
    ),
}
