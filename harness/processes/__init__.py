"""Thread and process counts, and how child processes end. Imports nothing else of the harness."""
