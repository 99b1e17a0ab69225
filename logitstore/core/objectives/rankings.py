"""The objectives on scores of the documents of a query; `logitstore.core.methods` has what each entry means."""

from __future__ import annotations

from typing import Any

_LOSSES = "logitstore.train.objectives.rankings.losses"

OF_RANKINGS: dict[str, dict[str, Any]] = {
    "margin_mse": {
        "target": f"{_LOSSES}:margin_mse",
        "says": "of a query: mean over pairs of ((s_i - s_j) - (t_i - t_j))^2, s and t scores",
        "paper": "Margin-MSE, Hofstaetter et al. 2020",
        "has_temperature": False,
    },
    "ranknet": {
        "target": f"{_LOSSES}:ranknet",
        "says": "of a query: mean over pairs of log(1 + e^-(s_i - s_j)), the teacher puts i before j",
        "paper": "RankNet, Burges et al. 2005",
        "has_temperature": False,
    },
    "list_kl": {
        "target": f"{_LOSSES}:list_kl",
        "says": "of a query: T^2 KL between the softmax over its documents of the teacher's scores and of the student's",
        "paper": "ListNet, Cao et al. 2007; DeAR, Abdallah et al. 2025",
    },
    "score_mse": {
        "target": f"{_LOSSES}:score_mse",
        "says": "of a query: mean over its documents of (s - t)^2",
        "paper": "Ba and Caruana 2014",
        "has_temperature": False,
    },
}
"""Arguments of a `Method` of the form "rankings", by its name."""
