"""Language models as sources: the SDKs of those who run them, and a model in this process."""
