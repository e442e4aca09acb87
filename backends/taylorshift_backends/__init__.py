"""One small module for each array library: a Backend value, plus what the core cannot know."""
