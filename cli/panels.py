"""The panels of the help texts: which options of a command stand together, and in which order."""

from __future__ import annotations

_TEACHER_DATA = (
    "data split column domain_column score_columns group_column limit chat_template template_arg end_token max_length "
    "overlap positions"
)
_PREPARING = "prepared prepare_workers keep_tokens"
_ROW = "preset sparsifier k top_p draws tail sketch_bytes rounding logprobs layout"
_TAPS = "hidden qkv tap_codec"
_SHARING = "processes cluster gpus_per_worker"
_ENGINE = "engine tokenizer concurrency engine_arg"
_PLACING = "device device_map max_memory tensor_parallel attention"

PANELS: dict[str, dict[str, str]] = {
    "prepare": {
        "Teacher": "teacher engine tokenizer trust_remote_code",
        "Data": _TEACHER_DATA,
        "Preparing": f"{_PREPARING} json",
    },
    "generate": {
        "Teacher": "teacher engine tokenizer concurrency",
        "Prompts": "data split column domain_column limit chat_template template_arg",
        "Answers": "max_new_tokens temperature seed samples_per_prompt top_logprobs",
        "Cost": "price_in price_out dry_run",
        "Output": "out prompts_per_shard",
    },
    "dump": {
        "Task and teacher": f"task teacher {_ENGINE} price trust_remote_code",
        "Data": _TEACHER_DATA,
        "Preparing the data": _PREPARING,
        "Labels and pairs": "label_column labels pair_column texts",
        "Views": "views seed",
        "Masks": "mask_share mask_random mask_unchanged",
        "Vectors": "pooling normalise",
        "Images": "augment image_size key_column skip_damaged classes prompt batch_images workers",
        "Rows": f"{_ROW} fidelity_rows",
        "Features of the teacher": _TAPS,
        "Compute": f"{_PLACING} {_SHARING} quantization dtype batch_tokens packed",
        "Output": "out parts samples_per_part part_bytes resume dry_run show profile",
    },
    "plan": {
        "Task and teacher": f"task teacher {_ENGINE} trust_remote_code",
        "Data": _TEACHER_DATA,
        "Preparing the data": _PREPARING,
        "Trial": "minutes pilot_samples fidelity_rows epochs",
        "Rows": _ROW,
        "Features of the teacher": _TAPS,
        "Compute": f"{_PLACING} quantization dtype batch_tokens packed",
        "Output": "out parts samples_per_part part_bytes resume json",
    },
    "add": {
        "Features of the teacher": f"{_TAPS} pilot_rows",
        "Images": "views images workers",
        "Teacher and compute": f"teacher trust_remote_code {_PLACING} {_SHARING} local_cache local_cache_size",
        "Output": "parts",
    },
    "convert": {
        "Source": "format tokenizer trust_remote_code teacher_name columns rows_about source_temperature compression "
        "values layers tap_codec split",
        "Rows": "k tail logprobs layout",
        "Output": "out samples_per_part part_bytes",
    },
    "train": {
        "Student": "student trust_remote_code copy_layers prune prune_samples keep_zeros lora lora_merge freeze recover_head "
        "hooks layers hidden_size intermediate_size heads kv_heads image_size",
        "Loss": "recipe objective alpha temperature also weights own_answers score pairs pooling strict",
        "Data": "select holdout text contexts packed window_parts curriculum curriculum_start reweight_domains reweight_kind "
        "images views views_per_step mix",
        "Steps": "epochs max_steps batch_size accumulate learning_rate learning_rate_batch scheduler warmup weight_decay seed",
        "Compute": "device precision fsdp workers local_cache local_cache_size",
        "Output": "out evaluate_every early_stopping save_every keep_checkpoints resume report_to trainer",
    },
    "rank": {
        "Students": "student fresh trust_remote_code image_size",
        "Scores": "score samples",
        "Short trainings": "steps learning_rate holdout",
        "Data": "images",
        "Compute": "batch_size device seed local_cache local_cache_size",
        "Output": "json",
    },
    "select": {
        "Choice": "reference method score figures ratio samples at_least at_most wrong seed",
        "Reading": "local_cache local_cache_size",
        "Output": "out json",
    },
    "verify": {
        "Parts": "repair share seed workers resume local_cache local_cache_size",
        "Teacher": f"against_teacher tolerance {_ENGINE} trust_remote_code images",
        "Compute": _PLACING,
    },
    "evaluate": {
        "Student": "student trust_remote_code image_size",
        "Data": "samples holdout text contexts images",
        "Compute": "batch_size device dtype local_cache local_cache_size",
        "Output": "figures json",
    },
}
"""Of each command with many options, the names of its options by panel. What is in none stands with --help."""


def panel_of(command: str, option: str) -> str | None:
    """Return the panel in which an option of a command stands; None for that of --help."""
    panels = PANELS.get(command, {})
    return next((panel for panel, names in panels.items() if option in names.split()), None)


def place_of(command: str, option: str) -> int:
    """Return a number by which the options of a command are sorted."""
    order = " ".join(PANELS.get(command, {}).values()).split()
    return order.index(option) if option in order else -1
