"""The bake: from what the proxy logged to a candidate in service, stage by stage."""
