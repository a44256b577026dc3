"""Parts of the model stage. Private to `stages.model` and, for building folders, to the training package."""
