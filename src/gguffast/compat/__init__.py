"""Other programs' faces: their command lines and functions, over gguffast's engine."""
