"""An encoder with its pooling: against sums written by hand, through its files, and in the form of sentence-transformers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModel, BertConfig, LlamaConfig, PretrainedConfig, T5Config

from logitstore.errors import ModelError
from logitstore.models.hooks import recording
from logitstore.models.load import load_again
from logitstore.models.pooling.described import DenseShape, Pooling, read_pooling
from logitstore.models.pooling.encoder import PooledEncoder
from logitstore.models.pooling.pooled import WAYS, pooled


def config_of(kind: str = "bert", **changes: Any) -> PretrainedConfig:
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    shape |= {"vocab_size": 50, "max_position_embeddings": 32, "initializer_range": 0.3} | changes
    return BertConfig(**shape) if kind == "bert" else LlamaConfig(num_key_value_heads=2, **shape)


def encoder(pooling: Pooling | None, kind: str = "bert") -> PooledEncoder:
    torch.manual_seed(0)
    model = PooledEncoder.from_config(config_of(kind), dtype=torch.float32).eval()
    if pooling is not None:
        model.settle(pooling)
    return model


def shown(left: bool = False) -> dict[str, Tensor]:
    mask_BT = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]])
    ids_BT = torch.arange(5, 17).view(3, 4)
    if left:
        mask_BT, ids_BT = mask_BT.flip(1), torch.stack([ids_BT[0], ids_BT[1].roll(2), ids_BT[2].roll(3)])
    return {"input_ids": ids_BT, "attention_mask": mask_BT}


def by_hand(hidden_BTD: Tensor, lengths: Sequence[int], way: str, left: bool) -> Tensor:
    rows = [
        hidden_TD[-length:] if left else hidden_TD[:length]
        for hidden_TD, length in zip(hidden_BTD, lengths, strict=True)
    ]
    return torch.stack([{"first": row[0], "mean": row.mean(0), "last": row[-1]}[way] for row in rows])


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_padding_on_either_side_counts_for_nothing(way: str, left: bool) -> None:
    hidden_BTD = torch.randn(3, 4, 5, dtype=torch.float64, requires_grad=True)
    mask_BT = shown(left)["attention_mask"]
    torch.testing.assert_close(pooled(hidden_BTD, mask_BT, way), by_hand(hidden_BTD, (4, 2, 1), way, left))
    assert torch.autograd.gradcheck(lambda value: pooled(value, mask_BT, way), hidden_BTD)
    assert pooled(hidden_BTD.bfloat16(), mask_BT, way).dtype == torch.bfloat16


@pytest.mark.parametrize("kind", ["bert", "llama"])
@pytest.mark.parametrize("normalised", [False, True])
def test_the_vector_is_pooled_projected_and_normalised(kind: str, normalised: bool) -> None:
    model = encoder(Pooling(way="last", normalised=normalised), kind)
    model.project(6)
    with torch.no_grad(), recording(model, ["final"]) as seen:
        found_BD = model(**shown()).logits
        hidden_BTD = model.encoder(**shown()).last_hidden_state
    expected_BD = by_hand(hidden_BTD, (4, 2, 1), "last", left=False) @ model.dense[0].weight.T
    if normalised:
        expected_BD = expected_BD / expected_BD.norm(dim=1, keepdim=True)
    torch.testing.assert_close(found_BD, expected_BD)
    torch.testing.assert_close(seen["final"], found_BD[:, None])
    assert (model.width, model.hidden) == (6, 16)


@pytest.mark.parametrize("way", WAYS)
def test_a_saved_model_comes_back_and_its_files_are_those_of_the_library(way: str, tmp_path: Path) -> None:
    model = encoder(Pooling(way=way, normalised=way != "last", max_length=20))
    model.project(6)
    model.save_pretrained(tmp_path)
    assert "pooler.dense.weight" not in model.encoder.state_dict()
    found, report = PooledEncoder.from_pretrained(
        tmp_path, config=AutoConfig.from_pretrained(tmp_path), output_loading_info=True, dtype=torch.float32
    )
    assert (report["missing_keys"], report["unexpected_keys"]) == (set(), set())
    assert found.pooling == model.pooling
    with torch.no_grad():
        torch.testing.assert_close(found.eval()(**shown()).logits, model(**shown()).logits, rtol=0, atol=0)
    other = encoder(model.pooling)
    load_again(other, tmp_path)
    torch.testing.assert_close(other.state_dict(), model.state_dict(), rtol=0, atol=0)
    kinds = [each["type"].rpartition(".")[2] for each in json.loads((tmp_path / "modules.json").read_text())]
    assert kinds == ["Transformer", "Pooling", "Dense", *(["Normalize"] if way != "last" else [])]
    plain = AutoModel.from_pretrained(tmp_path, add_pooling_layer=False)
    torch.testing.assert_close(plain.state_dict(), dict(model.encoder.state_dict()), rtol=0, atol=0)


def save_modules(folder: Path, kinds: dict[str, dict[str, Any]], **lengths: Any) -> Path:
    listed = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}]
    for number, (kind, options) in enumerate(kinds.items(), 1):
        path = f"{number}_{kind}"
        listed.append({"idx": number, "name": str(number), "path": path, "type": f"some.package.{kind}"})
        (folder / path).mkdir(parents=True)
        (folder / path / "config.json").write_text(json.dumps(options))
    (folder / "modules.json").write_text(json.dumps(listed))
    if lengths:
        (folder / "sentence_bert_config.json").write_text(json.dumps(lengths))
    return folder


def test_the_newer_names_of_the_library_are_read_too(tmp_path: Path) -> None:
    dense = {"in_features": 8, "out_features": 4, "activation_function": "torch.nn.modules.activation.Tanh"}
    folder = save_modules(tmp_path, {"Pooling": {"pooling_mode": "lasttoken"}, "Dense": dense}, max_seq_length=77)
    assert read_pooling(str(folder)) == (
        Pooling(
            way="last",
            normalised=False,
            dense=(DenseShape(inputs=8, outputs=4, bias=True, activation="tanh"),),
            max_length=77,
        ),
        ["2_Dense"],
    )
    assert read_pooling(str(tmp_path / "2_Dense")) is None


REFUSED: dict[str, tuple[dict[str, dict[str, Any]], str]] = {
    "two modes": ({"Pooling": {"pooling_mode": ["cls", "mean"]}}, "pools by cls and mean"),
    "another mode": ({"Pooling": {"pooling_mode_max_tokens": True}}, "pools by max"),
    "without the prompt": ({"Pooling": {"pooling_mode": "mean", "include_prompt": False}}, "without the prompt"),
    "another module": ({"Pooling": {}, "LSTM": {}}, "its modules are Transformer, Pooling, LSTM"),
    "another function": ({"Pooling": {}, "Dense": {"activation_function": "a.B"}}, "a Dense layer of it has a.B"),
    "tokens": (
        {"Pooling": {}, "Normalize": {"module_input_name": "token_embeddings"}},
        "something else than the vector",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_known_of_the_library_is_refused(name: str, tmp_path: Path) -> None:
    kinds, said = REFUSED[name]
    with pytest.raises(ModelError, match=said):
        read_pooling(str(save_modules(tmp_path, kinds)))


def test_models_of_encoder_and_decoder_and_dense_layers_without_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no single stack of layers"):
        PooledEncoder.from_config(T5Config(), dtype=torch.float32)
    model = encoder(None)
    model.project(3)
    model.save_pretrained(tmp_path)
    (tmp_path / "2_Dense" / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="weights of a Dense layer"):
        PooledEncoder.from_pretrained(tmp_path, config=AutoConfig.from_pretrained(tmp_path))
    (tmp_path / "modules.json").unlink()
    with pytest.raises(ModelError, match=r"there is no modules\.json that says where its weights are"):
        PooledEncoder.from_pretrained(tmp_path, config=AutoConfig.from_pretrained(tmp_path))
