"""What a comparison looks like: terminal, JSON, Markdown, JUnit XML and HTML."""
