"""Readers of what people have: files in, what depends on which key out. No AWS, no API, no secrets kept."""
