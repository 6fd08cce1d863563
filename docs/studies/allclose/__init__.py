"""Yours against theirs: the rules people judge implementations by today, on the same faults and honest variants as ours."""
