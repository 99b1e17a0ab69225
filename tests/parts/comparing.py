"""Tiny models of images and texts with random weights, by the names of their kinds in transformers."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers as hf
from transformers import PreTrainedModel

from tests.parts.images import CLASSES, SIZE, save_classifier
from tests.parts.texts import train_tokenizer

TOWER: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
TEXT = TOWER | {
    "vocab_size": 320,
    "max_position_embeddings": 40,
    "initializer_range": 0.3,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 1,
}
VISION = TOWER | {"image_size": SIZE, "patch_size": 4, "initializer_range": 0.3}
NET = {"image_size": SIZE, "width_coefficient": 1.0, "depth_coefficient": 1.0, "kernel_sizes": [3], "hidden_dim": 16}
NET |= {"in_channels": [32], "out_channels": [16], "strides": [2], "num_block_repeats": [1], "expand_ratios": [1]}
GROUPS = TOWER | {"depths": [1, 1], "num_group_tokens": [4, 0], "num_output_groups": [4, 0]}
FRAMES = {"mit_hidden_size": 32, "mit_intermediate_size": 48, "mit_num_hidden_layers": 1, "mit_num_attention_heads": 2}
BOTH: dict[str, Any] = {"text_config": TEXT, "vision_config": VISION}
LLAMA = {
    "vocab_size": 320,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}
OPT = {"model_type": "opt", "vocab_size": 320, "hidden_size": 32, "ffn_dim": 32, "num_hidden_layers": 1}
OPT |= {"num_attention_heads": 2, "word_embed_proj_dim": 32}


def _dual(vision: Any) -> PreTrainedModel:
    both = hf.VisionTextDualEncoderConfig.from_vision_text_configs(vision, hf.BertConfig(**TEXT), projection_dim=24)
    return hf.VisionTextDualEncoderModel(both)


def _altclip() -> PreTrainedModel:
    text, vision = TEXT | {"project_dim": 24, "type_vocab_size": 1}, VISION | {"projection_dim": 24}
    return hf.AltCLIPModel(hf.AltCLIPConfig(text_config=text, vision_config=vision, projection_dim=24))


MODELS: dict[str, Callable[[], PreTrainedModel]] = {
    "clip": lambda: hf.CLIPModel(hf.CLIPConfig(**BOTH, projection_dim=24)),
    "metaclip_2": lambda: hf.MetaClip2Model(hf.MetaClip2Config(**BOTH, projection_dim=24)),
    "clipseg": lambda: hf.CLIPSegModel(hf.CLIPSegConfig(**BOTH, projection_dim=24)),
    "chinese_clip": lambda: hf.ChineseCLIPModel(hf.ChineseCLIPConfig(**BOTH, projection_dim=24)),
    "altclip": _altclip,
    "align": lambda: hf.AlignModel(hf.AlignConfig(text_config=TEXT, vision_config=NET, projection_dim=16)),
    "blip": lambda: hf.BlipModel(hf.BlipConfig(**BOTH, projection_dim=24)),
    "owlvit": lambda: hf.OwlViTModel(hf.OwlViTConfig(**BOTH, projection_dim=24)),
    "owlv2": lambda: hf.Owlv2Model(hf.Owlv2Config(**BOTH, projection_dim=24)),
    "groupvit": lambda: hf.GroupViTModel(
        hf.GroupViTConfig(text_config=TEXT, vision_config=VISION | GROUPS, projection_dim=24)
    ),
    "dual encoder of ViT": lambda: _dual(hf.ViTConfig(**VISION)),
    "dual encoder of CLIP": lambda: _dual(hf.CLIPVisionConfig(**VISION)),
    "tipsv2": lambda: hf.Tipsv2Model(hf.Tipsv2Config(**BOTH)),
    "siglip": lambda: hf.SiglipModel(hf.SiglipConfig(**BOTH)),
    "siglip2": lambda: hf.Siglip2Model(
        hf.Siglip2Config(text_config=TEXT, vision_config=TOWER | {"patch_size": 4, "num_patches": 16})
    ),
    "aimv2": lambda: hf.Aimv2Model(hf.Aimv2Config(**BOTH, projection_dim=24)),
    "xclip": lambda: hf.XCLIPModel(
        hf.XCLIPConfig(text_config=TEXT, vision_config=VISION | FRAMES | {"num_frames": 2}, projection_dim=32)
    ),
    "flava": lambda: hf.FlavaModel(hf.FlavaConfig(text_config=TEXT, image_config=VISION, projection_dim=24)),
    "llava": lambda: hf.LlavaForConditionalGeneration(
        hf.LlavaConfig(vision_config=hf.CLIPVisionConfig(**VISION), text_config=hf.LlamaConfig(**LLAMA))
    ),
    "blip-2": lambda: hf.Blip2Model(
        hf.Blip2Config(
            vision_config=VISION,
            qformer_config=TOWER | {"encoder_hidden_size": 32, "vocab_size": 320},
            text_config=OPT,
        )
    ),
    "clip classifier": lambda: hf.CLIPForImageClassification(hf.CLIPConfig(**BOTH, **CLASSES)),
    "siglip classifier": lambda: hf.SiglipForImageClassification(hf.SiglipConfig(**BOTH, **CLASSES)),
}


@cache
def _tokenizer() -> hf.PreTrainedTokenizerFast:
    tokenizer = train_tokenizer()
    ends = tokenizers.processors.TemplateProcessing(single="$A <|end|>", special_tokens=[("<|end|>", 0)])
    tokenizer.backend_tokenizer.post_processor = ends
    return tokenizer


def saved(kind: str, folder: Path, scale: float = 5.0) -> Path:
    """Save a model with its image processor and a tokenizer; its logits are multiplied by exp(scale)."""
    torch.manual_seed(0)
    model = MODELS[kind]()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name == "logit_scale":
                weight.fill_(scale)
    save_classifier(folder, model)
    _tokenizer().save_pretrained(folder)
    return folder
