"""Parts of `benchmarks.bench_rollout`."""
