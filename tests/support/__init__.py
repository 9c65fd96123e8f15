"""Oracles, inputs and servers that several test modules share."""
