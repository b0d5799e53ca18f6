"""Parts of `bench_bake`."""
