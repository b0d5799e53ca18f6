"""What IPO is compared with, on the same prompts: GRPO, rewarded by a judge."""
