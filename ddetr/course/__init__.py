"""What the notebooks need besides the package: building the pages."""
