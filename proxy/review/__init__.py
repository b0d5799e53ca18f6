"""Review: what people and second judges say of interventions, and of sampled traffic that nothing halted."""
