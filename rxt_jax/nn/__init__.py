"""Parts with parameters: attention, feed-forward, experts, norms, gates, stacks of layers."""
