"""Local servers that speak the real wire formats of Ollama and ComfyUI, faults included."""
