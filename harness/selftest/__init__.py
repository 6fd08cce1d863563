"""The harness measured by itself: which wrong implementations its checks kill, how often they alarm on honest ones, and the smallest
error that they see. Everything runs in this process or in its children, without pytest."""
