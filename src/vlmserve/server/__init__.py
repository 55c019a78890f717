"""vLLM's OpenAI app with vlmserve's guards in front of and beside it."""
