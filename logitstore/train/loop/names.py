"""The training arguments of transformers by what becomes of them in a section `trainer:`.

Every one has an option of `train`, or has no effect here, or is honoured.
"""

from __future__ import annotations

_BATCHES = "batches come from the cache"
_LOSS = "the loss is that of the objective"
_FIGURES = "the figures of the held-out samples are always the same"
_ONCE = "train always trains, and judges on the held-out samples"

HAVE_OPTIONS = {
    "output_dir": "--out",
    "per_device_train_batch_size": "--batch-size",
    "num_train_epochs": "--epochs",
    "max_steps": "--max-steps",
    "learning_rate": "--learning-rate",
    "lr_scheduler_type": "--scheduler",
    "warmup_steps": "--warmup",
    "weight_decay": "--weight-decay",
    "gradient_accumulation_steps": "--accumulate",
    "bf16": "--precision",
    "fp16": "--precision",
    "eval_strategy": "--evaluate-every and --holdout",
    "eval_steps": "--evaluate-every",
    "save_steps": "--save-every",
    "save_total_limit": "--keep-checkpoints",
    "seed": "--seed",
    "use_cpu": "--device",
    "per_device_eval_batch_size": "--batch-size",
    "dataloader_num_workers": "--workers",
    "dataloader_prefetch_factor": "--workers",
    "dataloader_persistent_workers": "--workers",
    "dataloader_multiprocessing_context": "--workers",
    "resume_from_checkpoint": "--resume",
}
"""Arguments that an option of `train` sets, with the option."""


NO_EFFECT = {
    "label_smoothing_factor": _LOSS,
    "prediction_loss_only": _FIGURES,
    "eval_do_concat_batches": _FIGURES,
    "eval_use_gather_object": _FIGURES,
    "eval_accumulation_steps": _FIGURES,
    "include_for_metrics": _FIGURES,
    "batch_eval_metrics": _FIGURES,
    "bf16_full_eval": _FIGURES,
    "fp16_full_eval": _FIGURES,
    "accelerator_config": _BATCHES,
    "auto_find_batch_size": _BATCHES,
    "data_seed": _BATCHES,
    "dataloader_drop_last": _BATCHES,
    "dataloader_in_order": _BATCHES,
    "ignore_data_skip": _BATCHES,
    "remove_unused_columns": _BATCHES,
    "label_names": _BATCHES,
    "train_sampling_strategy": _BATCHES,
    "length_column_name": _BATCHES,
    "average_tokens_across_devices": "the loss is always a mean over the rows of all processes",
    "logging_nan_inf_filter": "a run stops where its loss is no finite number",
    "ddp_find_unused_parameters": "every parameter has a gradient in each step",
    "disable_tqdm": "train shows its own progress",
    "restore_callback_states_from_checkpoint": "a resumed run takes up all that it needs",
    "save_on_each_node": "one process writes --out, which all nodes must see",
    "parallelism_config": "a recipe cannot hold such an object, and the loss needs whole sequences. Give fsdp or deepspeed",
    "do_train": _ONCE,
    "do_eval": _ONCE,
    "do_predict": _ONCE,
    "local_rank": "torchrun sets it",
}
"""Arguments that would change nothing here, with the reason."""


HONOURED = {
    "optimiser": (
        "optim",
        "optim_args",
        "optim_target_modules",
        "adam_beta1",
        "adam_beta2",
        "adam_epsilon",
        "max_grad_norm",
        "neftune_noise_alpha",
    ),
    "schedule": ("lr_scheduler_kwargs",),
    "computing": (
        "tf32",
        "activation_checkpointing",
        "activation_checkpointing_kwargs",
        "gradient_checkpointing",
        "gradient_checkpointing_kwargs",
        "torch_compile",
        "torch_compile_backend",
        "torch_compile_mode",
        "use_liger_kernel",
        "liger_kernel_config",
        "use_cache",
        "torch_empty_cache_steps",
        "full_determinism",
        "dataloader_pin_memory",
        "debug",
        "skip_memory_metrics",
    ),
    "logging": (
        "logging_strategy",
        "logging_steps",
        "logging_first_step",
        "log_on_each_node",
        "log_level",
        "log_level_replica",
        "include_num_input_tokens_seen",
        "report_to",
        "run_name",
        "project",
        "trackio_space_id",
        "trackio_bucket_id",
        "trackio_static_space_id",
    ),
    "evaluation": ("eval_delay", "eval_on_start"),
    "saving": (
        "save_strategy",
        "save_only_model",
        "enable_jit_checkpoint",
        "load_best_model_at_end",
        "metric_for_best_model",
        "greater_is_better",
        "push_to_hub",
        "hub_token",
        "hub_private_repo",
        "hub_model_id",
        "hub_strategy",
        "hub_always_push",
        "hub_revision",
    ),
    "several processes": (
        "ddp_bucket_cap_mb",
        "ddp_broadcast_buffers",
        "ddp_static_graph",
        "ddp_backend",
        "ddp_timeout",
        "fsdp",
        "fsdp_config",
        "deepspeed",
    ),
}
"""Arguments that are passed on, by what they are about."""


ONE_STUDENT = (
    "activation_checkpointing",
    "gradient_checkpointing",
    "torch_compile",
    "torch_compile_backend",
    "torch_compile_mode",
    "use_liger_kernel",
    "neftune_noise_alpha",
    "debug",
)
"""Arguments about a model, of which a run of several students has none."""
