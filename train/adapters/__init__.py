"""Adapters as files: checked before they are loaded anywhere, published with their parents, merged on demand."""
