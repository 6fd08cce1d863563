"""Why a check failed: the first operator that is wrong, and which known bug gives the candidate's own output."""
