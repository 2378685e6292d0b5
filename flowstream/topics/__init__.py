"""Topics: what is published once goes to every subscriber, each at its own pace."""
