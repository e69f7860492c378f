"""Names of verbs and options in nanoGPT, litgpt, llama.cpp and Hugging Face, for suggestions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from sharnn.config import did_you_mean

_VERBS = {
    "train": "fit run pretrain",
    "train --from": "finetune tune adapt",
    "train --resume": "resume continue",
    "generate": "sample complete completion chat cli predict infer inference",
    "evaluate": "eval score test perplexity ppl validate",
    "report": "plot curves draw graph",
    "info": "show inspect describe summary",
    "export": "convert save pack quantize",
    "compare": "bench benchmark sweep",
    "data prepare": "prepare download encode",
    "tokenizer": "tokenize bpe",
}

_EVERYWHERE = {
    "--out": "output output_dir out_dir save save_dir dest",
    "--encoding": "charset codec",
    "--exclude": "ignore skip",
    "--include": "glob ext only",
}
_OPTIONS = {
    "train": {
        "--optim.lr": "lr learning_rate max_lr",
        "--optim.weight_decay": "wd weight_decay l2",
        "--optim.name": "optimizer optim_name opt",
        "--optim.grad_clip": "clip grad_clip max_grad_norm clip_grad",
        "--optim.warmup": "warmup warmup_steps warmup_iters lr_warmup_steps",
        "--optim.decay": "scheduler lr_scheduler schedule lr_decay",
        "--budget Nepochs": "epochs epoch num_epochs num_train_epochs max_epochs",
        "--budget Nsteps": "steps max_steps max_iters iters num_steps",
        "--budget NMtokens": "tokens max_tokens train_tokens",
        "--budget": "time max_time hours minutes",
        "--data.num_lanes": "batch_size bs batch micro_batch_size lanes per_device_train_batch_size",
        "--data.segment_length": "seq_len seqlen block_size bptt sequence_length max_seq_length length",
        "--model.window": "ctx context n_ctx ctx_size context_length mem_len memory window",
        "--model.embed_dim": "n_embd hidden_size d_model emsize emb_dim dim width nhid hidden",
        "--model.num_layers": "n_layer layers nlayers num_hidden_layers depth n_layers",
        "--model.num_heads": "n_head nhead heads num_attention_heads",
        "--model.hidden_dropout": "dropout dropouth",
        "--train.seed": "seed",
        "--train.dtype": "dtype precision fp16 bf16 mixed_precision amp",
        "--train.validate_every": "eval_interval eval_steps eval_every val_every",
        "--train.checkpoint_every": "save_interval save_steps save_every checkpoint_every",
        "--train.grad_accum_steps": "gradient_accumulation_steps grad_accum accumulation",
        "--train.activation_checkpointing": "gradient_checkpointing",
        "--train.tensorboard": "tensorboard log wandb report_to",
        "--from": "model init_from checkpoint_dir pretrained finetune model_name_or_path",
        "--resume": "resume_from resume_from_checkpoint continue_from",
        "--recipe": "config cfg preset",
        "TEXT, without an option": "data dataset train_file input text corpus file",
    },
    "generate": {
        "--temperature": "temp t",
        "--max-bytes": "max_new_tokens n_predict max_tokens num_tokens max_length length tokens n_tokens",
        "--num-samples": "num_return_sequences samples n_samples num",
        "--prompt-file": "file prompt_path input",
        "--repetition-penalty": "repeat_penalty presence_penalty frequency_penalty",
        "--window": "ctx_size n_ctx context",
        "MODEL, without an option": "model checkpoint checkpoint_dir m",
    },
    "evaluate": {
        "--lanes": "batch_size bs",
        "--segment-length": "seq_len block_size bptt max_seq_length",
        "--window": "ctx_size n_ctx context_length mem_len",
        "MODEL, without an option": "model checkpoint checkpoint_dir m",
        "TEXT, without an option": "data dataset file input text",
    },
}  # fmt: skip


def like_verb(name: str, verbs: Iterable[str]) -> str:
    """Return a suggestion for a verb that does not exist, or nothing."""
    return _suggestion(name, _VERBS, verbs, "sharnn ")


def like_option(verb: str, name: str, options: Iterable[str]) -> str:
    """Return a suggestion for an option that a verb does not have, or nothing."""
    known = list(options)
    meant = {
        option: names
        for option, names in {**_EVERYWHERE, **_OPTIONS.get(verb, {})}.items()
        if option.split()[0] in known or option[0] != "-"
    }
    return _suggestion(name, meant, known)


def _suggestion(name: str, meant: Mapping[str, str], known: Iterable[str], before: str = "") -> str:
    plain = name.lstrip("-").lower().replace("-", "_")
    known = list(known)
    if plain.replace("_", "") not in [option.strip("-").replace("-", "") for option in known]:
        for ours, theirs in meant.items():
            if plain in theirs.split():
                return f" (use {before}{ours})"
    return did_you_mean(name, known)
