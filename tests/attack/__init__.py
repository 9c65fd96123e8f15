"""What can run long: damaged input for every reader, and processes that are killed. See scripts/attack.sh."""
