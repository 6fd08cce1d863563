"""Code that several backends share and that is no part of the contract."""
