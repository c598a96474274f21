"""The commands of `python -m ddetr`: each module has `add_arguments(add)` and `run(args)`."""
