"""How likely is a segment of reasoning a compliance cue, given the conversation so far? Never imports torch."""
