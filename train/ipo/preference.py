"""The trainer of a stage on preference pairs, for IPO and for its baseline on full responses."""

from datasets import Dataset

from train.ipo.arguments import pad_id, training_arguments
from train.ipo.config import LossConfig
from train.ipo.job import Built, Job, Stage
from train.ipo.model import load_weights, lora_config
from train.ipo.prefix import SharingCollator, share_prefixes, unsupported
from train.ipo.trainer import IPOTrainer, dpo_config


def build(job: Job, stage: Stage, loss: LossConfig) -> Built:
    """Prefix sharing where it is exact for the model; with LoRA the reference is the adapter switched off."""
    settings, is_lora = job.config.train, job.config.train.method == "lora"
    start = job.base.folder if is_lora or stage.start is None else stage.start
    model = load_weights(start, job.weights_dtype)
    reference = None if is_lora else load_weights(job.base.folder, job.weights_dtype)
    if reference is not None:
        reference.requires_grad_(False)
    why = unsupported(model, settings.attention)
    is_sharing = share_prefixes(model, settings.attention)
    if reference is not None and is_sharing:
        share_prefixes(reference, settings.attention)
    pad = pad_id(job)
    trainer = IPOTrainer(
        model=model,
        ref_model=reference,
        args=dpo_config(
            stage.folder,
            beta=loss.beta,
            sft_weight=loss.sft_weight,
            precompute_ref_log_probs=settings.precompute_reference,
            **training_arguments(job, stage),
        ),
        train_dataset=Dataset.from_list(list(stage.encoded.rows)),
        eval_dataset=Dataset.from_list(list(stage.held_out.rows)) if stage.held_out else None,
        processing_class=job.base.tokenizer,
        data_collator=SharingCollator(pad_token_id=pad) if is_sharing else None,
        peft_config=lora_config(job.config.lora) if is_lora else None,
        max_seconds=stage.max_seconds,
    )
    if settings.precompute_reference:
        trainer.ref_model = None  # its scores are columns of the rows now
    return Built(trainer, is_sharing, why)
