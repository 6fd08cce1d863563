"""Many runs -> a static site: engines by profiles by versions, a report a run, badges, and what one engine alone fails. Works offline."""
