"""Local servers that speak the real wire formats of Ollama, ComfyUI, OpenAI, Anthropic and Google, faults included."""
