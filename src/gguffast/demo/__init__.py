"""What the demonstration and the tests share: a small model, a real one, llama.cpp to ask it."""
