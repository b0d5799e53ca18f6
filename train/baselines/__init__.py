"""What IPO is compared with, on the same pairs: SFT on the chosen sides, DPO on full responses."""
