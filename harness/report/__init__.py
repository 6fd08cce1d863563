"""Records -> tidy frame -> sections -> one HTML file, Markdown, CSV, JUnit. Imports record and pandas, never a backend or pytest."""
